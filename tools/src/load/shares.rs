//! Who gets which share of the load: "vip=0.1,normal=0.9", and drawing from it.

use anyhow::{Context, Result, bail, ensure};

/// Names with their shares, which need not add up to 1: they are weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Shares {
    names: Vec<String>,
    /// Of each name and all before it, ending at 1.
    up_to: Vec<f64>,
}

impl Shares {
    /// All of it for one name.
    pub fn one(name: &str) -> Shares {
        Shares { names: vec![name.to_owned()], up_to: vec![1.0] }
    }

    /// The shares of several names; one without a number weighs 1.
    pub fn new(weights: Vec<(String, f64)>) -> Result<Shares> {
        let mut shares = Shares { names: Vec::with_capacity(weights.len()), up_to: Vec::with_capacity(weights.len()) };
        let mut sum = 0.0;
        for (name, weight) in weights {
            ensure!(!shares.names.contains(&name), "{name:?} is named twice");
            ensure!(weight.is_finite() && weight >= 0.0, "the share of {name:?} is {weight}; it must be 0 or more");
            sum += weight;
            shares.names.push(name);
            shares.up_to.push(sum);
        }
        ensure!(sum > 0.0, "the shares add up to nothing; give at least one name a share above 0, such as vip=0.1");
        shares.up_to.iter_mut().for_each(|end| *end /= sum);
        Ok(shares)
    }

    /// From "vip=0.1,normal=0.9" or from several such texts.
    pub fn parse(texts: &[String]) -> Result<Shares> {
        let mut weights = Vec::new();
        for item in texts.iter().flat_map(|text| text.split(',')).map(str::trim) {
            let (name, weight) = match item.split_once('=') {
                None => (item, 1.0),
                Some((name, share)) => {
                    (name.trim(), share.trim().parse().with_context(|| format!("{item:?}: {share:?} is not a number"))?)
                }
            };
            if name.is_empty() {
                bail!("{item:?} names nobody; write name=share, such as vip=0.1,normal=0.9");
            }
            weights.push((name.to_owned(), weight));
        }
        Shares::new(weights)
    }

    /// The names, in the order they were given.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The names with their weights, which add up to 1.
    pub(crate) fn weights(&self) -> Vec<(String, f64)> {
        let before = std::iter::once(0.0).chain(self.up_to.iter().copied());
        self.names.iter().cloned().zip(self.up_to.iter().zip(before).map(|(end, start)| end - start)).collect()
    }

    /// The name's index that a draw between 0 and 1 falls on.
    pub(crate) fn at(&self, draw: f64) -> usize {
        self.up_to.partition_point(|end| *end <= draw).min(self.names.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(texts: &[&str]) -> Result<Shares> {
        Shares::parse(&texts.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn draws_fall_on_names_by_their_shares() {
        let shares = parse(&["vip=1,normal=8", "bulk=1"]).unwrap();
        assert_eq!(shares.names(), ["vip", "normal", "bulk"]);
        assert_eq!([0.0, 0.0999, 0.1001, 0.8999, 0.9001, 0.9999].map(|draw| shares.at(draw)), [0, 0, 1, 1, 2, 2]);
        assert_eq!(parse(&["never=0,always=1"]).unwrap().at(0.0), 1, "a share of 0 is never drawn");
        assert_eq!(parse(&["demo"]).unwrap(), Shares::one("demo"));
    }

    #[test]
    fn wrong_shares_are_refused_with_what_is_allowed() {
        for (text, says) in [
            ("vip=0,normal=0", "add up to nothing"),
            ("vip=much", "\"much\" is not a number"),
            ("vip=-1,normal=2", "0 or more"),
            ("vip=1,vip=2", "twice"),
            ("=1", "names nobody"),
            ("", "names nobody"),
            ("vip=inf", "0 or more"),
        ] {
            let error = format!("{:#}", parse(&[text]).unwrap_err());
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
