//! stream.jsonl: questions as a shop's users ask them one after the other, the active ones more often. A load for `larder load`.
//!
//! Texts of training and test stand side by side in it, so it says nothing of how good a head is; its intents are right all the same.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use larder_model::OUT_OF_SCOPE;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::load::MAX_QUESTIONS;
use crate::shop::{Customer, Shop};
use crate::shop_askers::suits;
use crate::shop_draw::mixed;
use crate::shop_questions::{
    OUT_OF_SCOPE_TESTS, PLAIN_TESTS, Plain, QuestionKind, QuestionTexts, TESTS_PER_AMBIGUOUS_GROUP,
};

/// The longest stream: as many questions as `larder load` takes.
pub(crate) const MOST_STREAMED: usize = MAX_QUESTIONS;

/// A tenant that is asked.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) shop: &'a Shop,
    pub(crate) texts: &'a QuestionTexts,
}

/// One line.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    tenant: String,
    user: String,
    text: String,
    intent: String,
    kind: QuestionKind,
}

/// Writes so many questions, of all tenants alike. The same seed gives the same stream, and a longer one begins with a shorter one.
pub(crate) fn write_stream(
    path: &Path,
    tenants: &[Asked<'_>],
    questions: usize,
    seed: u64,
    mut progress: impl FnMut(u64),
) -> Result<()> {
    let told = || format!("cannot write {}", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(told)?);
    let mut rng = StdRng::seed_from_u64(mixed(seed ^ 0x5354_5245));
    for number in 1..=questions {
        let asked = tenants.choose(&mut rng).context("a stream needs a tenant")?;
        let customer = asked.shop.customer(asked.shop.activity.draw(&mut rng));
        let Drawn { kind, text, intent } = asked.texts.draw(asked.shop, &customer, &mut rng)?;
        let line = Line {
            tenant: asked.tenant.to_owned(),
            user: customer.user.id,
            text: text.to_owned(),
            intent: intent.to_owned(),
            kind,
        };
        serde_json::to_writer(&mut file, &line).with_context(told)?;
        file.write_all(b"\n").with_context(told)?;
        progress(number as u64);
    }
    file.flush().with_context(told)
}

/// A question of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Drawn<'a> {
    kind: QuestionKind,
    text: &'a str,
    intent: &'a str,
}

impl QuestionTexts {
    /// What a user may ask next: of the three kinds as often as the test has them, and with words that fit the user.
    fn draw<'a>(&'a self, shop: &Shop, customer: &Customer, rng: &mut StdRng) -> Result<Drawn<'a>> {
        let kinds = [PLAIN_TESTS, TESTS_PER_AMBIGUOUS_GROUP * self.ambiguous.len(), OUT_OF_SCOPE_TESTS];
        let lot = rng.random_range(0..kinds.iter().sum());
        if lot >= kinds[0] + kinds[1] {
            let text = one_of(&self.out_of_scope.train, &self.out_of_scope.test, rng)?;
            return Ok(Drawn { kind: QuestionKind::OutOfScope, text, intent: OUT_OF_SCOPE });
        }
        if lot >= kinds[0] {
            let group = self.ambiguous.choose(rng).context("there is no ambiguous group")?;
            let value = shop.value(customer, &group.feature);
            if let Some(intent) = value.as_ref().and_then(Value::as_str).and_then(|value| group.intents.get(value)) {
                let text = one_of(&group.train, &group.test, rng)?;
                return Ok(Drawn { kind: QuestionKind::Ambiguous, text, intent });
            }
        }
        // Who has no order asks what anybody asks.
        let fitting: Vec<&Plain> = self.plain.iter().filter(|plain| suits(shop, customer, &plain.needs)).collect();
        let plain = fitting.choose(rng).context("every plain text needs a value that some users have not")?;
        Ok(Drawn { kind: QuestionKind::Plain, text: one_of(&plain.train, &plain.test, rng)?, intent: &plain.intent })
    }
}

fn one_of<'a>(train: &'a [String], test: &'a [String], rng: &mut StdRng) -> Result<&'a str> {
    let all = train.len() + test.len();
    ensure!(all > 0, "an entry has no text");
    let number = rng.random_range(0..all);
    Ok(train.get(number).unwrap_or_else(|| &test[number - train.len()]))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::files::read_json_lines;
    use crate::shop_locale::{CHINESE, ENGLISH};

    const NOW_MS: i64 = 1_790_000_000_000;

    #[test]
    fn a_stream_asks_what_fits_its_users() {
        for locale in [&ENGLISH, &CHINESE] {
            let texts = QuestionTexts::parse(locale.questions).unwrap();
            let shop = Shop::new(5, 2_000, NOW_MS, locale).unwrap();
            let mut rng = StdRng::seed_from_u64(1);
            let mut counts = [0_usize; 3];
            for index in 0..2_000 {
                let customer = shop.customer(index);
                let Drawn { kind, text, intent } = texts.draw(&shop, &customer, &mut rng).unwrap();
                counts[kind as usize] += 1;
                match kind {
                    QuestionKind::Plain => {
                        let plain = texts.plain.iter().find(|plain| plain.intent == intent).unwrap();
                        assert!(suits(&shop, &customer, &plain.needs), "{text}: {customer:?}");
                    }
                    QuestionKind::Ambiguous => {
                        let group =
                            texts.ambiguous.iter().find(|group| group.intents.values().any(|one| one == intent));
                        let feature = &group.unwrap().feature;
                        let value = shop.value(&customer, feature).unwrap();
                        assert_eq!(group.unwrap().intents[value.as_str().unwrap()], intent);
                    }
                    QuestionKind::OutOfScope => assert_eq!(intent, OUT_OF_SCOPE),
                }
            }
            assert!(counts[0] > 1_300 && counts[1] > 300 && counts[2] > 150, "{counts:?}");
        }
    }

    #[test]
    fn the_active_ask_most_and_a_longer_stream_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let texts = QuestionTexts::parse(ENGLISH.questions).unwrap();
        let shop = Shop::new(5, 1_000, NOW_MS, &ENGLISH).unwrap().with_zipf(1.0).unwrap();
        let stream = |questions: usize, seed: u64| -> Vec<Line> {
            let path = folder.path().join(format!("{questions}-{seed}.jsonl"));
            let tenants = ["demo", "demo-2"].map(|tenant| Asked { tenant, shop: &shop, texts: &texts });
            write_stream(&path, &tenants, questions, seed, |_| {}).unwrap();
            read_json_lines(&path).unwrap()
        };
        let asked = stream(3_000, 1);
        assert_eq!(asked.len(), 3_000);
        assert_eq!(asked[..500], stream(500, 1));
        assert_ne!(asked[..500], stream(500, 2));
        let mut of_user: HashMap<&str, usize> = HashMap::new();
        asked.iter().for_each(|line| *of_user.entry(&line.user).or_default() += 1);
        // 3000 / (ln 1000 + 0.577) = 401 fall on the first user, a tenth of that on the tenth.
        assert!((320..480).contains(&of_user["u0000001"]), "{}", of_user["u0000001"]);
        assert!((15..75).contains(&of_user["u0000010"]), "{}", of_user["u0000010"]);
        let second = asked.iter().filter(|line| line.tenant == "demo-2").count();
        assert!((1_350..1_650).contains(&second), "{second}");
    }
}
