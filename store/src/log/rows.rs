//! Rows of the log family. The bytes of each kind are written and read here and nowhere else.
//!
//! A key is the log's id u16 and the tenant u32 (both big-endian), the caller's key, escaped and terminated as an entity is, then the kind of
//! row: the head; an entry, followed by its position; a dedup mark, followed by the dedup key. Positions are stored inverted, so that one
//! seek finds the head with the newest entries right behind it, which is what a session asks for. The id alone is the key of the log's
//! declaration.
//!
//! Every value starts with the time at which it may be dropped, so cleaning up needs to know nothing else. Numbers are little-endian.

use crate::TenantId;
use crate::key::{push_entity, split_entity};
use crate::row::Damaged;

/// The version of all rows of a log, part of its declaration.
pub(crate) const LOG_FORMAT: u8 = 1;

/// Far beyond what positions reach, which follow from the time in microseconds; a row that names a greater one is damaged.
const MAX_POSITION: u64 = 1 << 62;

const HEAD: u8 = 0;
const ENTRY: u8 = 1;
const DEDUP: u8 = 2;
const AFTER_ALL: u8 = 3;

/// The bytes that start every row of one key of one log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LogKey(Vec<u8>);

impl LogKey {
    pub(crate) fn new(log: u16, tenant: TenantId, key: &str) -> LogKey {
        let mut bytes = tenant_prefix(log, tenant).to_vec();
        push_entity(&mut bytes, key.as_bytes());
        LogKey(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn head(&self) -> Vec<u8> {
        self.row(HEAD, &[])
    }

    pub(crate) fn entry(&self, position: u64) -> Vec<u8> {
        self.row(ENTRY, &(!position).to_be_bytes())
    }

    pub(crate) fn dedup(&self, dedup: &[u8]) -> Vec<u8> {
        self.row(DEDUP, dedup)
    }

    /// Greater than all rows of this key and smaller than those of the next.
    pub(crate) fn end(&self) -> Vec<u8> {
        self.row(AFTER_ALL, &[])
    }

    /// The position of the entry that a row's key names; `None` when it is no entry of this key.
    pub(crate) fn position_of(&self, row: &[u8]) -> Option<u64> {
        let position = row.strip_prefix(self.bytes())?.strip_prefix(&[ENTRY])?;
        Some(!u64::from_be_bytes(position.try_into().ok()?))
    }

    fn row(&self, kind: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + rest.len());
        bytes.extend_from_slice(&self.0);
        bytes.push(kind);
        bytes.extend_from_slice(rest);
        bytes
    }
}

/// The bytes that start every row of a tenant in a log.
pub(crate) fn tenant_prefix(log: u16, tenant: TenantId) -> [u8; 6] {
    let mut bytes = [0; 6];
    bytes[..2].copy_from_slice(&log.to_be_bytes());
    bytes[2..].copy_from_slice(&tenant.0.to_be_bytes());
    bytes
}

/// The caller's key that a head's row names, without the tenant's prefix.
pub(crate) fn key_of_head(row: &[u8]) -> Result<String, Damaged> {
    match split_entity(row) {
        Some((key, &[HEAD])) => String::from_utf8(key).map_err(|_| Damaged("the key of a head is not UTF-8")),
        _ => Err(Damaged("where a head is expected stands another row")),
    }
}

/// What is known of a key as a whole: entries have positions `first..next`. It lives as long as its last entry, trimmed or not, so that
/// no position is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// When the last of the entries ever appended is expired.
    pub(crate) expires_at_ms: i64,
    pub(crate) first: u64,
    pub(crate) next: u64,
    /// Whether any entry ever had a dedup key. Where none had, trimming need not read what it drops.
    pub(crate) has_dedups: bool,
}

impl Head {
    /// The head of a key that has none. Positions start at the time, so they are greater than those of entries long gone.
    pub(crate) fn starting(now_ms: i64) -> Head {
        let start = now_ms.unsigned_abs().saturating_mul(1000);
        Head { expires_at_ms: i64::MIN, first: start, next: start, has_dedups: false }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let numbers = [self.expires_at_ms.to_le_bytes(), self.first.to_le_bytes(), self.next.to_le_bytes()];
        [numbers.as_flattened(), &[u8::from(self.has_dedups)]].concat()
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Head, Damaged> {
        let ([expires_at_ms, first, next], [has_dedups @ (0 | 1)]) = value.as_chunks::<8>() else {
            return Err(Damaged("the value of a head has the wrong length or ending"));
        };
        let head = Head {
            expires_at_ms: i64::from_le_bytes(*expires_at_ms),
            first: u64::from_le_bytes(*first),
            next: u64::from_le_bytes(*next),
            has_dedups: *has_dedups == 1,
        };
        if head.first > head.next || head.next > MAX_POSITION {
            return Err(Damaged("the positions of a head are impossible"));
        }
        Ok(head)
    }
}

/// One entry, read in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// Under the age limit at the time it was appended.
    pub(crate) expires_at_ms: i64,
    pub(crate) appended_at_ms: i64,
    /// Empty when there is none.
    pub(crate) dedup: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl<'a> Entry<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(18 + self.dedup.len() + self.payload.len());
        value.extend_from_slice(&self.expires_at_ms.to_le_bytes());
        value.extend_from_slice(&self.appended_at_ms.to_le_bytes());
        value.extend_from_slice(&(self.dedup.len() as u16).to_le_bytes());
        value.extend_from_slice(self.dedup);
        value.extend_from_slice(self.payload);
        value
    }

    pub(crate) fn decode(value: &'a [u8]) -> Result<Entry<'a>, Damaged> {
        let header = || {
            let (expires_at_ms, rest) = value.split_first_chunk::<8>()?;
            let (appended_at_ms, rest) = rest.split_first_chunk::<8>()?;
            let (dedup_bytes, rest) = rest.split_first_chunk::<2>()?;
            Some((expires_at_ms, appended_at_ms, u16::from_le_bytes(*dedup_bytes), rest))
        };
        let (expires_at_ms, appended_at_ms, dedup_bytes, rest) =
            header().ok_or(Damaged("the value of an entry is shorter than its header"))?;
        let (dedup, payload) = rest
            .split_at_checked(usize::from(dedup_bytes))
            .ok_or(Damaged("the dedup key of an entry reaches past its end"))?;
        Ok(Entry {
            expires_at_ms: i64::from_le_bytes(*expires_at_ms),
            appended_at_ms: i64::from_le_bytes(*appended_at_ms),
            dedup,
            payload,
        })
    }

    /// Exact to the millisecond. A shorter limit counts at once, a longer one for new entries only: the bytes of the others may be gone.
    pub(crate) fn is_visible(&self, max_age_ms: i64, now_ms: i64) -> bool {
        now_ms < self.expires_at_ms.min(self.appended_at_ms.saturating_add(max_age_ms))
    }
}

/// Where the entry with a dedup key stands. It may have been trimmed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DedupMark {
    pub(crate) expires_at_ms: i64,
    pub(crate) position: u64,
}

impl DedupMark {
    pub(crate) fn encode(self) -> Vec<u8> {
        [self.expires_at_ms.to_le_bytes(), self.position.to_le_bytes()].concat()
    }

    pub(crate) fn decode(value: &[u8]) -> Result<DedupMark, Damaged> {
        let ([expires_at_ms, position], []) = value.as_chunks::<8>() else {
            return Err(Damaged("the value of a dedup mark has the wrong length"));
        };
        let mark =
            DedupMark { expires_at_ms: i64::from_le_bytes(*expires_at_ms), position: u64::from_le_bytes(*position) };
        if mark.position > MAX_POSITION {
            return Err(Damaged("the position of a dedup mark is impossible"));
        }
        Ok(mark)
    }
}

/// The declaration of a log: which name its id belongs to, and the format of its rows. It never expires.
pub(crate) fn encode_declaration(name: &str) -> Vec<u8> {
    let mut value = i64::MAX.to_le_bytes().to_vec();
    value.push(LOG_FORMAT);
    value.extend_from_slice(name.as_bytes());
    value
}

/// Format and name.
pub(crate) fn decode_declaration(value: &[u8]) -> Result<(u8, &str), Damaged> {
    let parts = || {
        let (_, rest) = value.split_first_chunk::<8>()?;
        let (format, name) = rest.split_first()?;
        Some((*format, std::str::from_utf8(name).ok()?))
    };
    parts().ok_or(Damaged("the value of a declaration is not one"))
}

/// The time at which a row of any kind may be dropped; `None` for bytes that no row has, which nobody drops.
pub(crate) fn expiry_of(value: &[u8]) -> Option<i64> {
    value.first_chunk::<8>().map(|bytes| i64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_key_stand_together_head_first_newest_entry_next() {
        let key = |tenant, key: &str| LogKey::new(7, TenantId(tenant), key);
        let mut rows = Vec::new();
        for key in [key(1, "a"), key(1, "a\0"), key(1, "aa"), key(1, "b"), key(2, "a")] {
            rows.push(key.head());
            rows.extend([u64::MAX >> 2, 256, 255, 0].map(|position| key.entry(position)));
            rows.extend([key.dedup(b"x"), key.dedup(b"y"), key.end()]);
        }
        assert!(rows.is_sorted());
        let key = key(1, "a\0");
        assert_eq!(key.position_of(&key.entry(255)), Some(255));
        assert_eq!(key.position_of(&key.head()), None);
        assert_eq!(key_of_head(&key.head()[6..]), Ok("a\0".to_string()));
        assert!(key_of_head(&key.entry(1)[6..]).is_err());
    }

    #[test]
    fn values_come_back_and_cut_ones_are_errors() {
        let head = Head { expires_at_ms: 5, first: 1, next: 9, has_dedups: true };
        let mark = DedupMark { expires_at_ms: -5, position: 3 };
        let entry = Entry { expires_at_ms: 20, appended_at_ms: 10, dedup: b"d", payload: b"hello" };
        assert_eq!(Head::decode(&head.encode()), Ok(head));
        assert_eq!(DedupMark::decode(&mark.encode()), Ok(mark));
        assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        assert_eq!(decode_declaration(&encode_declaration("turns")), Ok((LOG_FORMAT, "turns")));
        assert!((0..25).all(|length| Head::decode(&head.encode()[..length]).is_err()));
        assert!((0..16).all(|length| DedupMark::decode(&mark.encode()[..length]).is_err()));
        assert!((0..19).all(|length| Entry::decode(&entry.encode()[..length]).is_err()));
        assert!((0..9).all(|length| decode_declaration(&encode_declaration("")[..length]).is_err()));
        assert!(Head::decode(&Head { first: 10, ..head }.encode()).is_err());
    }

    #[test]
    fn the_shorter_age_decides() {
        let entry = Entry { expires_at_ms: 20, appended_at_ms: 10, dedup: b"", payload: b"" };
        let visible = |max_age, now| entry.is_visible(max_age, now);
        assert!(visible(10, 19) && !visible(10, 20));
        assert!(visible(5, 14) && !visible(5, 15));
        assert!(visible(90, 19) && !visible(90, 20));
    }
}
