//! Who asks: names from a file or numbered ones like the sample shop's, drawn evenly or by Zipf's law.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The most users to draw from.
pub const MAX_USERS: usize = 10_000_000;
/// The steepest Zipf exponent: at 4 the first user asks 92 % of all questions.
pub const MAX_ZIPF: f64 = 4.0;

#[derive(Debug, Clone)]
enum Names {
    Listed(Vec<String>),
    /// Prefix and a number of seven digits from 1, as `larder sample` names its users.
    Numbered {
        prefix: String,
        count: usize,
    },
}

/// The users of a load.
#[derive(Debug, Clone)]
pub struct Users {
    names: Names,
    /// Of each user and all before it, ending at 1; empty where all are equally likely.
    up_to: Vec<f64>,
}

impl Users {
    /// These users.
    pub fn listed(names: Vec<String>) -> Result<Users> {
        ensure!(!names.is_empty(), "there is no user in the list");
        ensure!(names.len() <= MAX_USERS, "{} users; at most {MAX_USERS} are allowed", names.len());
        if let Some(name) = names.iter().find(|name| !sendable(name)) {
            anyhow::bail!("the user {name:?}: only visible ASCII characters can be sent");
        }
        Ok(Users { names: Names::Listed(names), up_to: Vec::new() })
    }

    /// The users of a file, one per line; empty lines are skipped.
    pub fn read(path: &Path) -> Result<Users> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let names = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        Users::listed(names).with_context(|| format!("{} has no usable users", path.display()))
    }

    /// `count` users named like the sample shop's: `u0000001` and so on.
    pub fn numbered(prefix: &str, count: usize) -> Result<Users> {
        ensure!((1..=MAX_USERS).contains(&count), "{count} users: 1 to {MAX_USERS} are allowed");
        ensure!(sendable(prefix), "the prefix {prefix:?}: only visible ASCII characters can be sent");
        Ok(Users { names: Names::Numbered { prefix: prefix.to_owned(), count }, up_to: Vec::new() })
    }

    /// The same users, of whom the n-th asks in proportion to 1 / n^exponent.
    pub fn zipf(mut self, exponent: f64) -> Result<Users> {
        ensure!((0.0..=MAX_ZIPF).contains(&exponent), "a Zipf exponent of {exponent}: 0 to {MAX_ZIPF} is allowed");
        let mut sum = 0.0;
        self.up_to = (1..=self.count())
            .map(|rank| {
                sum += (rank as f64).powf(-exponent);
                sum
            })
            .collect();
        self.up_to.iter_mut().for_each(|end| *end /= sum);
        Ok(self)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match &self.names {
            Names::Listed(names) => names.len(),
            Names::Numbered { count, .. } => *count,
        }
    }

    /// The user that a draw between 0 and 1 falls on.
    pub(crate) fn at(&self, draw: f64) -> String {
        let last = self.count() - 1;
        let index = match self.up_to.is_empty() {
            true => ((draw * self.count() as f64) as usize).min(last),
            false => self.up_to.partition_point(|end| *end <= draw).min(last),
        };
        match &self.names {
            Names::Listed(names) => names[index].clone(),
            Names::Numbered { prefix, .. } => format!("{prefix}{:07}", index + 1),
        }
    }
}

/// Whether metadata can carry it.
pub(crate) fn sendable(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shop_draw::user_id;

    #[test]
    fn numbered_users_are_the_sample_shops() {
        let users = Users::numbered("u", 500).unwrap();
        assert_eq!(users.at(0.0), user_id(0));
        assert_eq!(users.at(0.99999), user_id(499));
    }

    #[test]
    fn zipf_gives_each_rank_its_share() {
        let users = Users::numbered("u", 1_000).unwrap().zipf(1.0).unwrap();
        let harmonic: f64 = (1..=1_000).map(|rank| 1.0 / f64::from(rank)).sum();
        assert_eq!(users.at(0.999 / harmonic), "u0000001");
        assert_eq!(users.at(1.001 / harmonic), "u0000002");
        assert_eq!(users.at(0.999_999_9), "u0001000");
    }

    #[test]
    fn wrong_users_are_refused() {
        assert!(Users::listed(vec![]).unwrap_err().to_string().contains("no user"));
        assert!(Users::listed(vec!["Zoë".to_owned()]).unwrap_err().to_string().contains("ASCII"));
        assert!(Users::numbered("u", 0).unwrap_err().to_string().contains("1 to 10000000"));
        assert!(Users::numbered("u", 10).unwrap().zipf(-1.0).unwrap_err().to_string().contains("0 to 4"));
    }
}
