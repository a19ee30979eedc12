//! Which of n nodes an entity belongs to: CRC-32 of the UTF-8 bytes of its key, modulo n. The hash is the one of IEEE 802.3, zlib and PNG, because
//! whoever has to agree with a node on it has it built in: Python's `zlib.crc32`, Spark's and MySQL's `crc32`, Java's `java.util.zip.CRC32`. It is
//! part of the interface and never changes; docs/sharding.md has it for other languages.
//!
//! CRC-32 spreads keys that count upwards more evenly than chance would (its low bits are linear in the key's), and others as chance does. It
//! is no defence against somebody who chooses keys in order to burden one node.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// Most shards.
pub const MAX_SHARDS: u32 = 4096;

/// One of `count` parts of all entities, written "index/count". The default is the whole, "0/1".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Default for Shard {
    fn default() -> Shard {
        Shard { index: 0, count: 1 }
    }
}

impl Shard {
    /// The part that an entity belongs to, of `count` parts; 0 counts as 1.
    pub fn of(entity: &str, count: u32) -> Shard {
        let count = count.max(1);
        Shard { index: crc32fast::hash(entity.as_bytes()) % count, count }
    }

    /// Whether an entity belongs to this part.
    pub fn holds(self, entity: &str) -> bool {
        self.is_whole() || Shard::of(entity, self.count) == self
    }

    /// Whether every entity of `other` belongs to this part too: 1/2 covers 1/4 and 3/4.
    pub fn covers(self, other: Shard) -> bool {
        other.count.is_multiple_of(self.count) && other.index % self.count == self.index
    }

    /// Whether there is but one part.
    pub fn is_whole(&self) -> bool {
        self.count == 1
    }

    /// The part's number, from 0.
    pub fn index(self) -> u32 {
        self.index
    }

    /// How many parts there are.
    pub fn count(self) -> u32 {
        self.count
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = Error;

    /// Reads "index/count", as [`Display`](fmt::Display) writes it and in no other way.
    fn from_str(text: &str) -> Result<Shard, Error> {
        let parse = || {
            let (index, count) = text.split_once('/')?;
            let shard = Shard { index: index.parse().ok()?, count: count.parse().ok()? };
            (shard.index < shard.count && shard.count <= MAX_SHARDS && shard.to_string() == text).then_some(shard)
        };
        let refused = || {
            let allowed = "must be i/n with 0 <= i < n, such as 0/4";
            Error::FixRequest(format!("{text:?} is no shard: {allowed}; n is at most {MAX_SHARDS}"))
        };
        parse().ok_or_else(refused)
    }
}

impl TryFrom<String> for Shard {
    type Error = Error;

    fn try_from(text: String) -> Result<Shard, Error> {
        text.parse()
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> String {
        shard.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Made with Python: `zlib.crc32(key.encode())`, of which 4 and 4096 parts are taken.
    const GOLDEN: [(&str, u32); 8] = [
        ("", 0),
        ("user-1", 2_116_437_524),
        ("user-17", 1_880_864_953),
        ("u0000042", 722_986_402),
        ("Zoë", 1_739_342_378),
        ("用户", 501_916_381),
        ("+8613800000000", 2_942_962_195),
        ("550e8400-e29b-41d4-a716-446655440000", 3_225_157_873),
    ];

    #[test]
    fn the_function_is_the_documented_one() {
        for (entity, crc) in GOLDEN {
            for count in [1, 3, 4, 4096] {
                let shard = Shard::of(entity, count);
                assert_eq!((shard.index(), shard.count()), (crc % count, count), "{entity:?}");
                assert!(shard.holds(entity));
            }
        }
        assert_eq!(Shard::of("user-17", 4).to_string(), "1/4");
        assert_eq!(Shard::of("user-17", 0), Shard::default());
    }

    /// The most and the fewest keys of a shard, as parts of the mean.
    fn spread(count: u32, keys: impl Iterator<Item = String>) -> (f64, f64) {
        let mut sizes = vec![0u32; count as usize];
        keys.for_each(|key| sizes[Shard::of(&key, count).index() as usize] += 1);
        let mean = f64::from(sizes.iter().sum::<u32>()) / f64::from(count);
        let part = |size: Option<&u32>| f64::from(*size.unwrap()) / mean;
        (part(sizes.iter().min()), part(sizes.iter().max()))
    }

    #[test]
    fn realistic_keys_are_spread_evenly() {
        let keys = 1..=100_000u64;
        // Multiplication by an odd number takes each seed to another one.
        let mixed = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let uuid = |n: u64| {
            let (a, b) = (mixed(n), mixed(mixed(n) ^ (mixed(n) >> 31)));
            format!("{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}", a >> 32, a >> 48, a & 0xFFF, b >> 52, b & 0xFFFF_FFFF_FFFF)
        };
        for count in [2, 3, 4, 5, 8, 10, 16, 64] {
            // Chance alone leaves so many keys five standard deviations from the mean.
            let allowed = 5.0 * (f64::from(count) / 100_000.0).sqrt();
            for (name, (least, most)) in [
                ("counted", spread(count, keys.clone().map(|n| format!("user-{n}")))),
                ("padded", spread(count, keys.clone().map(|n| format!("u{n:07}")))),
                ("telephone", spread(count, keys.clone().map(|n| format!("+86138{:08}", n * 7)))),
                ("uuid", spread(count, keys.clone().map(uuid))),
            ] {
                let even = least > 1.0 - allowed && most < 1.0 + allowed;
                assert!(even, "{name}, {count} shards: {least} to {most} of the mean, allowed {allowed}");
            }
        }
    }

    #[test]
    fn a_shard_is_written_in_one_way() {
        for text in ["0/1", "0/4", "3/4", "4095/4096"] {
            let shard: Shard = text.parse().unwrap();
            assert_eq!(shard.to_string(), text);
            assert_eq!(serde_json::from_str::<Shard>(&serde_json::to_string(&shard).unwrap()).unwrap(), shard);
        }
        for text in
            ["", "/", "4/4", "0/0", "1", "-1/4", "+1/4", "01/4", "1/04", " 1/4", "1/4/8", "0/4097", "1/4294967297"]
        {
            let refused = text.parse::<Shard>().unwrap_err().to_string();
            assert!(refused.contains("must be i/n with 0 <= i < n, such as 0/4; n is at most 4096"), "{refused}");
        }
        assert!(serde_json::from_str::<Shard>("\"4/4\"").is_err());
    }

    proptest! {
        #[test]
        fn a_part_covers_its_halves_and_nothing_else(entity in ".{0,20}", index in 0u32..64, count in 1u32..64) {
            let shard = Shard { index: index % count, count };
            let halves = [shard.index, shard.index + count].map(|index| Shard { index, count: 2 * count });
            prop_assert!(halves.iter().all(|half| shard.covers(*half) && !half.covers(shard)));
            prop_assert_eq!(shard.holds(&entity), halves.iter().any(|half| half.holds(&entity)));
            let other = Shard::of(&entity, 2 * count);
            prop_assert_eq!(shard.covers(other), shard.holds(&entity));
            prop_assert!(Shard::default().covers(shard) && Shard::default().holds(&entity));
        }
    }
}
