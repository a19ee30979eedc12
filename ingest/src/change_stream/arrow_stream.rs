//! A message that is an Arrow IPC stream: a schema, dictionaries, batches, as pyarrow's `ipc.new_stream` writes them.

use arrow::array::RecordBatch;
use bytes::Bytes;
use larder_store::MAX_WRITE_ROWS;

use crate::ipc::{self, IpcDecoder, IpcMessage, IpcReceived};

/// Says that a length follows; older writers leave it out.
const CONTINUATION: [u8; 4] = [0xFF; 4];
/// How a file begins, which is another format.
const FILE_MAGIC: &[u8] = b"ARROW1";

/// All batches of the stream, of at most as many rows as one write takes.
pub(crate) fn batches(stream: &[u8]) -> Result<Vec<RecordBatch>, String> {
    if stream.starts_with(FILE_MAGIC) {
        return Err("it is an Arrow file; a stream is expected (pyarrow: ipc.new_stream)".to_owned());
    }
    // Columns may refer to these bytes, which are the client's, after it has let go of them.
    let mut rest = Bytes::copy_from_slice(stream);
    let (mut decoder, mut batches, mut rows) = (IpcDecoder::default(), Vec::new(), 0);
    while let Some(message) = next(&mut rest)? {
        if let IpcReceived::Batch(batch) = decoder.take(message).map_err(|error| error.to_string())? {
            let batch = batch.decode(MAX_WRITE_ROWS - rows).map_err(|error| error.to_string())?;
            rows += batch.num_rows();
            batches.push(batch);
        }
    }
    if batches.is_empty() { Err("it is an Arrow stream without a batch".to_owned()) } else { Ok(batches) }
}

/// The next message; none at the end.
fn next(rest: &mut Bytes) -> Result<Option<IpcMessage>, String> {
    if rest.is_empty() {
        return Ok(None);
    }
    let mut length = take(rest, 4)?;
    if length[..] == CONTINUATION {
        length = take(rest, 4)?;
    }
    let length = length.as_ref().try_into().map_or(0, u32::from_le_bytes) as usize;
    if length == 0 {
        return Ok(None);
    }
    let header = take(rest, length)?;
    let body = ipc::read(&header).map_err(|error| error.to_string())?.bodyLength();
    let body = take(rest, usize::try_from(body).map_err(|_| cut_off())?)?;
    Ok(Some(IpcMessage { header, body }))
}

fn take(rest: &mut Bytes, bytes: usize) -> Result<Bytes, String> {
    if bytes > rest.len() {
        return Err(cut_off());
    }
    Ok(rest.split_to(bytes))
}

fn cut_off() -> String {
    "the Arrow stream ends within a message, or is none".to_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray, StringDictionaryBuilder};
    use arrow::datatypes::Int32Type;
    use arrow_ipc::writer::StreamWriter;

    use super::*;

    pub(crate) fn stream(batches: &[RecordBatch]) -> Vec<u8> {
        let mut writer = StreamWriter::try_new(Vec::new(), batches[0].schema_ref()).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.finish().unwrap();
        writer.into_inner().unwrap()
    }

    fn batch() -> RecordBatch {
        let mut tier = StringDictionaryBuilder::<Int32Type>::new();
        ["gold", "basic", "gold"].iter().for_each(|value| tier.append_value(value));
        let user: ArrayRef = Arc::new(StringArray::from(vec!["ada", "bob", "cleo"]));
        let number: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        RecordBatch::try_from_iter([("user", user), ("n", number), ("tier", Arc::new(tier.finish()) as ArrayRef)])
            .unwrap()
    }

    #[test]
    fn batches_come_back_with_their_dictionaries() {
        let read = batches(&stream(&[batch(), batch()])).unwrap();
        assert_eq!(read, [batch(), batch()]);
        assert_eq!(read[1]["tier"].as_any_dictionary().values().len(), 2);
    }

    #[test]
    fn what_is_no_stream_is_told() {
        let whole = stream(&[batch()]);
        for (bytes, says) in [
            (&b"ARROW1\0\0"[..], "an Arrow file"),
            (&b"{\"entity\": \"ada\"}"[..], "ends within a message"),
            (&whole[..whole.len() - 20], "ends within a message"),
            (&[][..], "without a batch"),
        ] {
            let message = batches(bytes).unwrap_err();
            assert!(message.contains(says), "{message:?} does not say {says:?}");
        }
    }

    #[test]
    fn every_changed_byte_is_refused_or_read_and_nothing_panics() {
        let whole = stream(&[batch()]);
        for at in 0..whole.len() {
            for value in [0, 1, 0x7F, 0xFF] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                if let Ok(read) = batches(&bytes) {
                    assert!(read.iter().map(RecordBatch::num_rows).sum::<usize>() <= MAX_WRITE_ROWS);
                }
            }
            let _ = batches(&whole[..at]);
        }
    }
}
