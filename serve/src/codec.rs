//! The message codec of every Larder service: prost, except that a message that cannot be decoded is the caller's mistake.
//!
//! tonic reports a malformed message (text that is not UTF-8, a cut-off field) as INTERNAL, which pages an operator
//! and makes clients retry. It is INVALID_ARGUMENT, and retrying does not help. Encoding and framing stay tonic's.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec as TonicCodec, DecodeBuf, Decoder as TonicDecoder};
use tonic::{Code, Status};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Prost messages over gRPC; named by the generated code.
#[derive(Debug, Clone)]
pub(crate) struct Codec<Encode, Decode>(PhantomData<(Encode, Decode)>);

impl<Encode, Decode> Default for Codec<Encode, Decode> {
    fn default() -> Self {
        Codec(PhantomData)
    }
}

impl<Encode, Decode> TonicCodec for Codec<Encode, Decode>
where
    Encode: Message + Send + 'static,
    Decode: Message + Default + Send + 'static,
{
    type Encode = Encode;
    type Decode = Decode;
    type Encoder = ProstEncoder<Encode>;
    type Decoder = Decoder<Decode>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<Encode, Decode>::raw_encoder(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        Decoder(ProstCodec::<Encode, Decode>::raw_decoder(BufferSettings::default()))
    }
}

/// Prost's decoder with the status of its failure corrected.
#[derive(Debug, Clone)]
pub(crate) struct Decoder<Decode>(ProstDecoder<Decode>);

impl<Decode: Message + Default> TonicDecoder for Decoder<Decode> {
    type Item = Decode;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Decode>, Status> {
        self.0.decode(source).map_err(|status| match status.code() {
            Code::Internal => Status::invalid_argument(format!("the message cannot be read: {}", status.message())),
            _ => status,
        })
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}
