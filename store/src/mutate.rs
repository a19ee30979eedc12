//! Mutated inputs for the fuzz targets. Inputs start from really encoded data; bits are flipped, pieces cut and repeated, integers set to
//! what is likely to be believed as a length, two inputs mixed. One that leads to a reason not seen before joins the inputs that are
//! mutated further, so the search goes deeper without knowing the code.
//!
//! It is our own because coverage-guided fuzzers need another compiler and a second build of everything.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::random::Random;

/// Inputs per target when no time is set.
const ROUNDS: u64 = 20_000;
/// Longest input.
const MAX_INPUT_BYTES: usize = 1 << 14;
/// Most inputs that are kept for mutation.
const MAX_CORPUS: usize = 500;
/// What reading may allocate at once: so much per byte of input, and so much besides.
const MEMORY_PER_BYTE: usize = 256;
const MEMORY_BESIDES: usize = 64 << 10;

/// Feeds mutations of `seeds` to `read`, which says why it refuses bytes and panics when it breaks a promise. The seeds must be accepted.
pub(crate) fn fuzz(target: &str, seeds: Vec<Vec<u8>>, read: impl Fn(&[u8]) -> Result<(), String>) {
    for seed in &seeds {
        read(seed).unwrap();
    }
    let variable = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = variable("LARDER_FUZZ_SEED").unwrap_or_else(clock);
    let time = variable("LARDER_FUZZ_SECONDS").map(Duration::from_secs);
    let started = Instant::now();
    let mut random = Random(seed);
    let from_start = seeds.len();
    let mut corpus = seeds;
    let mut reasons = BTreeSet::new();
    let mut rounds = 0;
    while time.map_or(rounds < ROUNDS, |time| started.elapsed() < time) {
        rounds += 1;
        // Half of the inputs come from what is whole: most of the others are refused early.
        let of = if random.below(2) == 0 { from_start } else { corpus.len() };
        let input = mutate(random.of(&corpus[..of]).clone(), &corpus, &mut random);
        let mut outcome = Ok(());
        let attempt = || allocation_counter::measure(|| outcome = read(&input)).bytes_max as usize;
        let report = || eprintln!("LARDER_FUZZ_SEED={seed} {target}, round {rounds}, input {}", hex(&input));
        match catch_unwind(AssertUnwindSafe(attempt)) {
            Err(panic) => {
                report();
                resume_unwind(panic);
            }
            Ok(bytes) if bytes > input.len() * MEMORY_PER_BYTE + MEMORY_BESIDES => {
                report();
                panic!("{} bytes of input took {bytes} bytes of memory", input.len());
            }
            Ok(_) => {}
        }
        let reason = outcome.err().map(|reason| shape(&reason)).unwrap_or_default();
        if corpus.len() < MAX_CORPUS && reasons.insert(reason) {
            corpus.push(input);
        }
    }
    println!("LARDER_FUZZ_SEED={seed} {target}: {rounds} inputs, {} outcomes", reasons.len());
    assert!(reasons.len() > 1, "all inputs had one outcome");
}

/// A reason without what differs from input to input: numbers and whatever it quotes.
fn shape(reason: &str) -> String {
    let unquoted = reason.split(['"', '`']).step_by(2);
    unquoted.flat_map(|part| part.chars().filter(|c| !c.is_ascii_digit())).take(100).collect()
}

impl Random {
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// A range within `length`, short ones more often.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let most = *self.of(&[1, 4, 16, length]);
        start..(start + self.below(most + 1)).min(length)
    }
}

/// Integers at the edges of what a length, a count or a time may be.
const EDGES: [u64; 14] = [
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0xFFFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    i64::MAX as u64,
    u64::MAX,
];

/// Pieces that mean something in text formats.
const WORDS: [&str; 14] = [
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "4294967296",
    "-1",
    "1e999",
    "0",
    "null",
    "true",
    "\"\"",
    "\\u0000",
    "[",
    "{}",
    ",",
];

fn mutate(mut bytes: Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len());
        match random.below(10) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => {
                let (edge, length) = (*random.of(&EDGES), bytes.len() as u64);
                let value = *random.of(&[edge, edge, length.wrapping_sub(1), length, length + 1]);
                put_integer(&mut bytes, at, random, |_| value);
            }
            3 => {
                let difference = random.below(33) as u64;
                put_integer(&mut bytes, at, random, |value| value.wrapping_add(difference).wrapping_sub(16));
            }
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(random.range(bytes.len()))),
            6 => {
                let piece = bytes[random.range(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            7 => {
                let other = random.of(corpus);
                let piece = other[random.range(other.len())].to_vec();
                let replaced = random.range(bytes.len());
                bytes.splice(replaced, piece);
            }
            8 => {
                let replaced = random.range(bytes.len());
                bytes.splice(replaced, random.of(&WORDS).bytes());
            }
            _ => {
                let number = digits(&bytes, at);
                bytes.splice(number, random.of(&EDGES).to_string().into_bytes());
            }
        }
        bytes.truncate(MAX_INPUT_BYTES);
    }
    bytes
}

/// Where the first number written in digits stands, at or after `at`.
fn digits(bytes: &[u8], at: usize) -> std::ops::Range<usize> {
    let first = bytes[at..].iter().position(u8::is_ascii_digit).map_or(at, |first| at + first);
    let count = bytes[first..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    first..first + count
}

/// Changes an integer of some width at `at`, of either byte order.
fn put_integer(bytes: &mut [u8], at: usize, random: &mut Random, change: impl Fn(u64) -> u64) {
    let width = *random.of(&[1, 2, 4, 8]);
    let Some(place) = bytes.get_mut(at..at + width) else { return };
    let big_endian = random.below(2) == 0;
    if big_endian {
        place.reverse();
    }
    let mut value = [0; 8];
    value[..width].copy_from_slice(place);
    let changed = change(u64::from_le_bytes(value)).to_le_bytes();
    place.copy_from_slice(&changed[..width]);
    if big_endian {
        place.reverse();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    //! A search that finds nothing proves nothing: these readers break their promises.

    use super::*;

    /// A payload after its length.
    fn seeds() -> Vec<Vec<u8>> {
        vec![[&5u32.to_le_bytes(), b"hello".as_slice()].concat()]
    }

    fn length(bytes: &[u8]) -> Result<usize, String> {
        let length = bytes.first_chunk().ok_or("too short")?;
        Ok(u32::from_le_bytes(*length) as usize)
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn a_reader_that_believes_an_offset_is_caught() {
        fuzz("offset", seeds(), |bytes| {
            let end = 4 + length(bytes)?;
            assert!(bytes[4..end].len() < bytes.len());
            Ok(())
        });
    }

    #[test]
    #[should_panic(expected = "bytes of memory")]
    fn a_reader_that_allocates_what_a_length_says_is_caught() {
        fuzz("length", seeds(), |bytes| {
            let length = length(bytes)?.min(16 << 20);
            let mut payload = Vec::with_capacity(length);
            payload.extend_from_slice(bytes.get(4..4 + length).ok_or("it ends too early")?);
            assert!(payload.len() <= bytes.len());
            Ok(())
        });
    }

    #[test]
    fn a_seed_repeats_its_inputs() {
        let inputs = |seed| {
            let mut random = Random(seed);
            let mut input = || mutate(seeds()[0].clone(), &seeds(), &mut random);
            (0..100).map(|_| input()).collect::<Vec<_>>()
        };
        assert_eq!(inputs(7), inputs(7));
        assert_ne!(inputs(7), inputs(8));
    }
}
