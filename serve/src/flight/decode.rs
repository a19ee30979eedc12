//! Flight messages as record batches: what a stranger sends is decoded with the care of `larder_ingest::IpcDecoder`, and refused in Flight's name.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::FlightData;
use larder_ingest::{Error, IpcBatch, IpcDecoder, IpcMessage, IpcReceived};

use crate::error::Refusal;

/// What a stream has said so far.
#[derive(Debug, Default)]
pub(super) struct Decoder(IpcDecoder);

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
pub(super) struct EncodedBatch(IpcBatch);

impl Decoder {
    /// Takes a message in.
    pub(super) fn take(&mut self, data: FlightData) -> Result<Received, Refusal> {
        let message = IpcMessage { header: data.data_header, body: data.data_body };
        Ok(match self.0.take(message).map_err(|error| refused(&error))? {
            IpcReceived::Schema(schema) => Received::Schema(schema),
            IpcReceived::Batch(batch) => Received::Batch(EncodedBatch(batch)),
            IpcReceived::Nothing => Received::Nothing,
        })
    }
}

impl EncodedBatch {
    /// Bytes of the message.
    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Checks and decodes the batch, which has at most `max_rows`.
    pub(super) fn decode(&self, max_rows: usize) -> Result<RecordBatch, Refusal> {
        self.0.decode(max_rows).map_err(|error| refused(&error))
    }
}

fn refused(error: &Error) -> Refusal {
    Refusal::Invalid(format!("Flight data: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};

    use arrow::array::{Array, ArrayRef, AsArray, StringArray, StringDictionaryBuilder};
    use arrow::datatypes::Int32Type;
    use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
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
