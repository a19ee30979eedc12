//! Tickets: the names of questions in the lane. 128 bits, written as 22 letters and digits.
//!
//! A question with a dedup key is named by a hash of its owner and that key, so that the same question has the same ticket whenever and
//! wherever it comes again, and nothing has to remember which ticket a key had. Any other question is named at random. Neither says how many
//! questions there are, of this tenant or another one; nor is a ticket a secret: it is looked up among its owner's questions only.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::time::Instant;

use larder_store::TenantId;
use xxhash_rust::xxh3::xxh3_128;

/// Letters and digits of a ticket: as many as the greatest number needs.
const LENGTH: usize = 22;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The name of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(pub(crate) u128);

impl Ticket {
    /// The ticket of a user's question with that dedup key.
    pub(crate) fn of_key(tenant: TenantId, user: &str, dedup_key: &str) -> Ticket {
        // The user's length keeps user and key apart.
        let length = (user.len() as u64).to_le_bytes();
        Ticket(xxh3_128(&[&tenant.0.to_le_bytes()[..], &length, user.as_bytes(), dedup_key.as_bytes()].concat()))
    }

    /// A ticket that no other question has.
    pub(crate) fn random() -> Ticket {
        // Both hashers have random keys of the system's, which differ.
        let half = || u128::from(RandomState::new().hash_one(Instant::now()));
        Ticket(half() << 64 | half())
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; LENGTH];
        let mut rest = self.0;
        for digit in text.iter_mut().rev() {
            *digit = DIGITS[(rest % 62) as usize];
            rest /= 62;
        }
        text.iter().try_for_each(|digit| fmt::Write::write_char(formatter, char::from(*digit)))
    }
}

impl FromStr for Ticket {
    type Err = ();

    fn from_str(text: &str) -> Result<Ticket, ()> {
        if text.len() != LENGTH {
            return Err(());
        }
        let digit = |byte| DIGITS.iter().position(|digit| *digit == byte);
        let add = |sum: u128, byte| sum.checked_mul(62)?.checked_add(digit(byte)? as u128);
        text.bytes().try_fold(0, add).map(Ticket).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn tickets_come_back_from_their_text() {
        for number in [0, 1, 61, 62, u128::MAX / 3, u128::MAX] {
            let text = Ticket(number).to_string();
            assert!(text.len() == 22 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{text}");
            assert_eq!(text.parse(), Ok(Ticket(number)));
        }
        let over = "zzzzzzzzzzzzzzzzzzzzzz";
        for text in ["", "0", "000000000000000000000-", "00000000000000000000000", over, "00000000000000000000é"] {
            assert_eq!(text.parse::<Ticket>(), Err(()), "{text}");
        }
    }

    #[test]
    fn a_dedup_key_names_one_question_of_one_user() {
        let ticket = |tenant, user, key| Ticket::of_key(TenantId(tenant), user, key);
        // Stored tickets are found by it again: it may never change.
        assert_eq!(ticket(1, "ada", "mail-1").to_string(), "0fsyocqqIKZBbLFVV62XjO");
        let all = [(1, "ada", "x"), (2, "ada", "x"), (1, "ad", "ax"), (1, "adax", ""), (1, "ada", "y")];
        assert_eq!(all.map(|(tenant, user, key)| ticket(tenant, user, key)).iter().collect::<HashSet<_>>().len(), 5);
        let random: HashSet<_> = (0..1000).map(|_| Ticket::random()).collect();
        assert_eq!(random.len(), 1000);
    }
}
