//! The loops of the CPU forward that are our own: matrix product with its epilogue, attention, layer norm.
//!
//! Burn's CPU backend runs an encoder at a third to four fifths of ONNX Runtime's speed (docs/models.md): its matrix product packs the
//! weights anew on every call and its other operations each pass over memory once more. Here the weights are packed once, when they
//! are loaded; bias, GELU and residual are applied while a product's results are still in registers; and attention is written for the short
//! sequences that questions are. Each loop has a test against the Burn operation that it replaces, on every instruction set of the
//! machine that runs it, and the whole network has one against an independent forward (tests/model_parity.rs).
//!
//! There is no unsafe code: pulp chooses the widest instruction set when the program runs, and slices are checked. Every number
//! of a result is computed by the same operations in the same order whatever else is in the batch and however many threads share the
//! work, so batched equals single to the last bit.

mod attention;
mod gelu;
mod instructions;
mod layer_norm;
mod matrix;
mod tile;

pub(crate) use attention::{Attention, attend};
pub(crate) use instructions::InstructionSet;
pub(crate) use layer_norm::layer_norm;
pub(crate) use matrix::{After, PackedMatrix};
