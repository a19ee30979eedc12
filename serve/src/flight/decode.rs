//! Flight messages as record batches. What a stranger sends is looked at before it is decoded: kinds, sizes and compression; decoding itself
//! may panic on bytes that nobody sends in earnest, and then it is the message that is refused.
//!
//! Schemas and dictionaries are taken in as they come; batches are only carried from here, with what they need, to the thread that decodes them.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow_flight::FlightData;
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{read_dictionary, read_record_batch};
use arrow_ipc::{Message, MessageHeader, root_as_message};
use larder_store::MAX_FEATURES;

use crate::error::Refusal;

/// Most columns of a schema: those of a view with keys, and as many that nobody asked for.
const MAX_COLUMNS: usize = 2 * MAX_FEATURES;
/// Most bytes of dictionaries in one stream, replaced ones included, and grown ones once for each time they grew.
const MAX_DICTIONARY_BYTES: usize = 64 << 20;

/// What a stream has said so far.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    schema: Option<SchemaRef>,
    dictionaries: Arc<HashMap<i64, ArrayRef>>,
    dictionary_bytes: usize,
}

/// What a message was.
#[derive(Debug)]
pub(super) enum Received {
    /// The schema of all batches that follow.
    Schema(SchemaRef),
    Batch(EncodedBatch),
    /// Nothing that its reader needs to know of: metadata alone, or a dictionary.
    Nothing,
}

/// A batch that is still to be decoded.
#[derive(Debug)]
pub(super) struct EncodedBatch {
    data: FlightData,
    schema: SchemaRef,
    dictionaries: Arc<HashMap<i64, ArrayRef>>,
}

impl Decoder {
    /// Takes a message in.
    pub(super) fn take(&mut self, data: FlightData) -> Result<Received, Refusal> {
        if data.data_header.is_empty() {
            return Ok(Received::Nothing);
        }
        let header = data.data_header.clone();
        let message = message(&header)?;
        match message.header_type() {
            MessageHeader::NONE => Ok(Received::Nothing),
            MessageHeader::Schema => self.take_schema(&message).map(Received::Schema),
            MessageHeader::DictionaryBatch => self.take_dictionary(&message, &data).map(|()| Received::Nothing),
            MessageHeader::RecordBatch => {
                let schema = self.schema.clone().ok_or_else(|| wrong("a batch came before its schema"))?;
                Ok(Received::Batch(EncodedBatch { data, schema, dictionaries: self.dictionaries.clone() }))
            }
            other => Err(wrong(format!("a message is neither schema, dictionary nor batch but of kind {}", other.0))),
        }
    }

    fn take_schema(&mut self, message: &Message<'_>) -> Result<SchemaRef, Refusal> {
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

    fn take_dictionary(&mut self, message: &Message<'_>, data: &FlightData) -> Result<(), Refusal> {
        let Some(schema) = &self.schema else { return Err(wrong("a dictionary came before its schema")) };
        let batch = message.header_as_dictionary_batch().ok_or_else(|| wrong("a dictionary message holds none"))?;
        if batch.data().is_some_and(|data| data.compression().is_some()) {
            return Err(compressed());
        }
        // A part that is added to a dictionary makes a new one of both, and batches that wait keep the old one.
        let before = self.dictionaries.get(&batch.id()).filter(|_| batch.isDelta());
        self.dictionary_bytes += data.data_body.len() + before.map_or(0, bytes_of);
        if self.dictionary_bytes > MAX_DICTIONARY_BYTES {
            let message = format!("dictionaries of more than {MAX_DICTIONARY_BYTES} bytes in one stream; open another");
            return Err(wrong(message));
        }
        let dictionaries = Arc::make_mut(&mut self.dictionaries);
        guarded(|| read_dictionary(&body(data), batch, schema, dictionaries, &message.version()))
    }
}

impl EncodedBatch {
    /// Bytes of the message.
    pub(super) fn bytes(&self) -> usize {
        self.data.data_body.len() + self.data.data_header.len()
    }

    /// Checks and decodes the batch; `max_rows` bounds what may be allocated for columns without bytes of their own.
    pub(super) fn decode(&self, max_rows: usize) -> Result<RecordBatch, Refusal> {
        let message = message(&self.data.data_header)?;
        let batch = message.header_as_record_batch().ok_or_else(|| wrong("a batch message holds none"))?;
        if batch.compression().is_some() {
            return Err(compressed());
        }
        if usize::try_from(batch.length()).map_or(true, |rows| rows > max_rows) {
            let rows = batch.length();
            return Err(Refusal::Invalid(format!("{rows} rows; a batch has at most {max_rows}, send more of them")));
        }
        let (schema, dictionaries) = (self.schema.clone(), &*self.dictionaries);
        guarded(|| read_record_batch(&body(&self.data), batch, schema, dictionaries, None, &message.version()))
    }
}

/// Bytes of an array's values; buffers that it shares with others count by its part of them.
fn bytes_of(array: &ArrayRef) -> usize {
    array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size())
}

fn message(header: &[u8]) -> Result<Message<'_>, Refusal> {
    root_as_message(header).map_err(|error| wrong(format!("a header cannot be read: {error}")))
}

/// The bytes of a message's columns, aligned or copied.
fn body(data: &FlightData) -> Buffer {
    Buffer::from(data.data_body.clone())
}

/// Decoding that may fail in any way.
fn guarded<T>(decode: impl FnOnce() -> Result<T, arrow::error::ArrowError>) -> Result<T, Refusal> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(outcome) => outcome.map_err(|error| wrong(error.to_string())),
        Err(_) => Err(wrong("a message contradicts itself")),
    }
}

fn compressed() -> Refusal {
    wrong("compressed batches are not taken; send them plain (pyarrow: IpcWriteOptions without compression)")
}

fn wrong(what: impl std::fmt::Display) -> Refusal {
    Refusal::Invalid(format!("Flight data: {what}"))
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use arrow::array::{AsArray, StringArray, StringDictionaryBuilder};
    use arrow::datatypes::{Field, Int32Type, Schema};
    use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
    use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
    use proptest::prelude::*;
    use tokio_stream::StreamExt;

    use super::*;

    fn batch() -> RecordBatch {
        let mut tier = StringDictionaryBuilder::<Int32Type>::new();
        ["gold", "basic", "gold"].iter().for_each(|value| tier.append_value(value));
        let user: ArrayRef = Arc::new(StringArray::from(vec!["ada", "bob", "cleo"]));
        RecordBatch::try_from_iter([("user", user), ("tier", Arc::new(tier.finish()))]).unwrap()
    }

    /// Its schema, its dictionary and itself.
    fn messages() -> Vec<FlightData> {
        static MESSAGES: OnceLock<Vec<FlightData>> = OnceLock::new();
        let encode = || {
            let builder = FlightDataEncoderBuilder::new().with_dictionary_handling(DictionaryHandling::Resend);
            let encoding = builder.build(tokio_stream::iter([Ok(batch())])).map(Result::unwrap).collect();
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(encoding)
        };
        MESSAGES.get_or_init(encode).clone()
    }

    /// All batches of a stream, or why one of its messages is refused.
    fn read(messages: Vec<FlightData>) -> Result<Vec<RecordBatch>, Refusal> {
        let mut decoder = Decoder::default();
        let mut batches = Vec::new();
        for message in messages {
            if let Received::Batch(encoded) = decoder.take(message)? {
                batches.push(encoded.decode(1_000)?);
            }
        }
        Ok(batches)
    }

    #[test]
    fn batches_come_back_with_their_dictionaries() {
        let batches = read(messages()).unwrap();
        assert_eq!(batches, [batch()]);
        assert_eq!(batches[0]["tier"].as_any_dictionary().values().len(), 2);
    }

    #[test]
    fn what_is_out_of_order_or_too_much_is_refused() {
        let refused = |messages: Vec<FlightData>| read(messages).unwrap_err().to_string();
        let [schema, dictionary, batch] = messages().try_into().unwrap();
        assert!(refused(vec![batch.clone()]).contains("before its schema"));
        assert!(refused(vec![dictionary.clone()]).contains("before its schema"));
        assert!(refused(vec![schema.clone(), schema.clone()]).contains("a second schema"));
        let mut decoder = Decoder::default();
        for message in [schema, dictionary] {
            decoder.take(message).unwrap();
        }
        let Received::Batch(encoded) = decoder.take(batch).unwrap() else { panic!("it is a batch") };
        assert!(encoded.decode(2).unwrap_err().to_string().contains("3 rows; a batch has at most 2"));
    }

    #[test]
    fn a_dictionary_that_grows_counts_whole_each_time() {
        let options = IpcWriteOptions::default().with_dictionary_handling(arrow_ipc::writer::DictionaryHandling::Delta);
        let (mut values, mut grown) = (StringDictionaryBuilder::<Int32Type>::new(), 0);
        values.append_value("x".repeat(MAX_DICTIONARY_BYTES / 8));
        let schema = Schema::new(vec![Field::new("text", values.finish_preserve_values().data_type().clone(), true)]);
        let mut tracker = DictionaryTracker::new(false);
        let generator = IpcDataGenerator::default();
        let described = generator.schema_to_bytes_with_dictionary_tracker(&schema, &mut tracker, &options);
        let mut decoder = Decoder::default();
        decoder.take(described.into()).unwrap();
        let refused = loop {
            // A small part for a large dictionary.
            values.append_value(format!("value {grown}"));
            let column: ArrayRef = Arc::new(values.finish_preserve_values());
            let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![column]).unwrap();
            let mut context = Default::default();
            let (parts, _) = generator.encode(&batch, &mut tracker, &options, &mut context).unwrap();
            let sent: usize = parts.iter().map(|part| part.arrow_data.len()).sum();
            assert!(grown == 0 || sent < 1 << 10, "{sent} bytes are a part and not the whole");
            match parts.into_iter().try_for_each(|part| decoder.take(part.into()).map(drop)) {
                Ok(()) => grown += 1,
                Err(refusal) => break refusal,
            }
        };
        assert!(refused.to_string().contains("dictionaries of more than"), "{refused}");
        assert_eq!(grown, 7, "the first whole, and then six times what it had become");
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_or_read_and_never_panic(
            message in 0usize..3, in_body in any::<bool>(), changes in prop::collection::vec((any::<u16>(), any::<u8>()), 1..8),
            cut in prop::option::of(any::<u16>()),
        ) {
            let mut messages = messages();
            let data = &mut messages[message];
            let mut bytes = if in_body { data.data_body.to_vec() } else { data.data_header.to_vec() };
            for (at, value) in changes {
                let length = bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(usize::from(at) % length) {
                    *byte = value;
                }
            }
            if let Some(cut) = cut {
                bytes.truncate(usize::from(cut) % (bytes.len() + 1));
            }
            let bytes = bytes.into();
            if in_body { data.data_body = bytes } else { data.data_header = bytes }
            if let Ok(batches) = read(messages) {
                for batch in batches {
                    prop_assert!(batch.num_rows() <= 1_000);
                }
            }
        }
    }
}
