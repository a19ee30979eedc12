//! Arrow's IPC messages as record batches. What a stranger sends is looked at before it is decoded: kinds, sizes and compression; decoding itself
//! may panic on bytes that nobody sends in earnest, and then it is the message that is refused.
//!
//! Schemas and dictionaries are taken in as they come; batches are only carried from here, with what they need, to the thread that decodes them.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{read_dictionary, read_record_batch};
use arrow_ipc::{Message, MessageHeader, root_as_message};
use bytes::Bytes;
use larder_store::MAX_FEATURES;

use crate::Error;

/// Most columns of a schema: those of a view with keys, and as many that nobody asked for.
const MAX_COLUMNS: usize = 2 * MAX_FEATURES;
/// Most bytes of dictionaries in one stream, replaced ones included, and grown ones once for each time they grew.
const MAX_DICTIONARY_BYTES: usize = 64 << 20;

/// A message: its header, a flatbuffer, and the bytes of its columns.
#[derive(Debug, Clone, Default)]
pub struct IpcMessage {
    /// Says what the body is.
    pub header: Bytes,
    /// Buffers, one after the other.
    pub body: Bytes,
}

/// What a stream of messages has said so far.
#[derive(Debug, Default)]
pub struct IpcDecoder {
    schema: Option<SchemaRef>,
    dictionaries: Arc<HashMap<i64, ArrayRef>>,
    dictionary_bytes: usize,
}

/// What a message was.
#[derive(Debug)]
pub enum IpcReceived {
    /// The schema of all batches that follow.
    Schema(SchemaRef),
    /// A batch.
    Batch(IpcBatch),
    /// Nothing that its reader needs to know of: metadata alone, or a dictionary.
    Nothing,
}

/// A batch that is still to be decoded.
#[derive(Debug)]
pub struct IpcBatch {
    message: IpcMessage,
    schema: SchemaRef,
    dictionaries: Arc<HashMap<i64, ArrayRef>>,
}

impl IpcDecoder {
    /// Takes a message in.
    ///
    /// # Errors
    /// [`Error::FixRequest`] says what is wrong with it.
    pub fn take(&mut self, message: IpcMessage) -> Result<IpcReceived, Error> {
        if message.header.is_empty() {
            return Ok(IpcReceived::Nothing);
        }
        let header = message.header.clone();
        let read = read(&header)?;
        match read.header_type() {
            MessageHeader::NONE => Ok(IpcReceived::Nothing),
            MessageHeader::Schema => self.take_schema(&read).map(IpcReceived::Schema),
            MessageHeader::DictionaryBatch => self.take_dictionary(&read, &message.body).map(|()| IpcReceived::Nothing),
            MessageHeader::RecordBatch => {
                let schema = self.schema.clone().ok_or_else(|| wrong("a batch came before its schema"))?;
                Ok(IpcReceived::Batch(IpcBatch { message, schema, dictionaries: self.dictionaries.clone() }))
            }
            other => Err(wrong(format!("a message is neither schema, dictionary nor batch but of kind {}", other.0))),
        }
    }

    fn take_schema(&mut self, message: &Message<'_>) -> Result<SchemaRef, Error> {
        if self.schema.is_some() {
            return Err(wrong("a second schema came in one stream; open another stream"));
        }
        let schema = message.header_as_schema().ok_or_else(|| wrong("a schema message holds none"))?;
        let columns = schema.fields().map_or(0, |fields| fields.len());
        if columns > MAX_COLUMNS {
            return Err(wrong(format!("{columns} columns; at most {MAX_COLUMNS} are allowed")));
        }
        let schema = Arc::new(guarded(|| try_fb_to_schema(schema))?);
        self.schema = Some(schema.clone());
        Ok(schema)
    }

    fn take_dictionary(&mut self, message: &Message<'_>, body: &Bytes) -> Result<(), Error> {
        let Some(schema) = &self.schema else { return Err(wrong("a dictionary came before its schema")) };
        let batch = message.header_as_dictionary_batch().ok_or_else(|| wrong("a dictionary message holds none"))?;
        if batch.data().is_some_and(|data| data.compression().is_some()) {
            return Err(compressed());
        }
        // A part that is added to a dictionary makes a new one of both, and batches that wait keep the old one.
        let before = self.dictionaries.get(&batch.id()).filter(|_| batch.isDelta());
        self.dictionary_bytes += body.len() + before.map_or(0, bytes_of);
        if self.dictionary_bytes > MAX_DICTIONARY_BYTES {
            let message = format!("dictionaries of more than {MAX_DICTIONARY_BYTES} bytes in one stream; open another");
            return Err(wrong(message));
        }
        let dictionaries = Arc::make_mut(&mut self.dictionaries);
        guarded(|| read_dictionary(&buffer(body), batch, schema, dictionaries, &message.version()))
    }
}

impl IpcBatch {
    /// Bytes of the message.
    pub fn bytes(&self) -> usize {
        self.message.body.len() + self.message.header.len()
    }

    /// Checks and decodes the batch; `max_rows` bounds what may be allocated for columns without bytes of their own.
    ///
    /// # Errors
    /// [`Error::FixRequest`] says what is wrong with it.
    pub fn decode(&self, max_rows: usize) -> Result<RecordBatch, Error> {
        let message = read(&self.message.header)?;
        let batch = message.header_as_record_batch().ok_or_else(|| wrong("a batch message holds none"))?;
        if batch.compression().is_some() {
            return Err(compressed());
        }
        if usize::try_from(batch.length()).map_or(true, |rows| rows > max_rows) {
            let rows = batch.length();
            return Err(wrong(format!("{rows} rows; a batch has at most {max_rows}, send more of them")));
        }
        let (schema, dictionaries) = (self.schema.clone(), &*self.dictionaries);
        let body = buffer(&self.message.body);
        guarded(|| read_record_batch(&body, batch, schema, dictionaries, None, &message.version()))
    }
}

/// Bytes of an array's values; buffers that it shares with others count by its part of them.
fn bytes_of(array: &ArrayRef) -> usize {
    array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size())
}

/// The header of a message, checked.
pub(crate) fn read(header: &[u8]) -> Result<Message<'_>, Error> {
    root_as_message(header).map_err(|error| wrong(format!("a header cannot be read: {error}")))
}

/// The bytes of a message's columns, aligned or copied.
fn buffer(body: &Bytes) -> Buffer {
    Buffer::from(body.clone())
}

/// Decoding that may fail in any way.
fn guarded<T>(decode: impl FnOnce() -> Result<T, arrow::error::ArrowError>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(outcome) => outcome.map_err(|error| wrong(error.to_string())),
        Err(_) => Err(wrong("a message contradicts itself")),
    }
}

fn compressed() -> Error {
    wrong("compressed batches are not taken; send them plain (pyarrow: IpcWriteOptions without compression)")
}

fn wrong(what: impl Into<String>) -> Error {
    Error::FixRequest(what.into())
}

#[cfg(test)]
mod tests {
    use arrow::array::StringDictionaryBuilder;
    use arrow::datatypes::{Field, Int32Type, Schema};
    use arrow_ipc::writer::{DictionaryHandling, DictionaryTracker, EncodedData, IpcDataGenerator, IpcWriteOptions};

    use super::*;

    fn message(encoded: EncodedData) -> IpcMessage {
        IpcMessage { header: encoded.ipc_message.into(), body: encoded.arrow_data.into() }
    }

    #[test]
    fn a_dictionary_that_grows_counts_whole_each_time() {
        let options = IpcWriteOptions::default().with_dictionary_handling(DictionaryHandling::Delta);
        let (mut values, mut grown) = (StringDictionaryBuilder::<Int32Type>::new(), 0);
        values.append_value("x".repeat(MAX_DICTIONARY_BYTES / 8));
        let schema = Schema::new(vec![Field::new("text", values.finish_preserve_values().data_type().clone(), true)]);
        let mut tracker = DictionaryTracker::new(false);
        let generator = IpcDataGenerator::default();
        let described = generator.schema_to_bytes_with_dictionary_tracker(&schema, &mut tracker, &options);
        let mut decoder = IpcDecoder::default();
        decoder.take(message(described)).unwrap();
        let refused = loop {
            // A small part for a large dictionary.
            values.append_value(format!("value {grown}"));
            let column: ArrayRef = Arc::new(values.finish_preserve_values());
            let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![column]).unwrap();
            let mut context = Default::default();
            let (parts, _) = generator.encode(&batch, &mut tracker, &options, &mut context).unwrap();
            let sent: usize = parts.iter().map(|part| part.arrow_data.len()).sum();
            assert!(grown == 0 || sent < 1 << 10, "{sent} bytes are a part and not the whole");
            match parts.into_iter().try_for_each(|part| decoder.take(message(part)).map(drop)) {
                Ok(()) => grown += 1,
                Err(refusal) => break refusal,
            }
        };
        assert!(refused.to_string().contains("dictionaries of more than"), "{refused}");
        assert_eq!(grown, 7, "the first whole, and then six times what it had become");
    }
}
