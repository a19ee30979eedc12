//! The sample shop's questions: labelled ones to train the ranking head with, and 200 others to test it with.
//!
//! The texts stand in assets/questions.toml; this file gives each to a user it makes sense for. A text that needs a
//! delayed order goes to a user whose newest order is delayed; an ambiguous text goes to several users, whose feature
//! then says which intent is right. Users of test questions are never users of training questions. Only users who are looked at are drawn, so
//! that a large shop costs no more than a small one.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use larder_model::{LabelledQuestion, OUT_OF_SCOPE};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::shop::Shop;
use crate::shop_askers::{Askers, Half, suits};

pub(crate) const PLAIN_TESTS: usize = 140;
pub(crate) const TESTS_PER_AMBIGUOUS_GROUP: usize = 10;
pub(crate) const OUT_OF_SCOPE_TESTS: usize = 20;
/// How many users of each value ask an ambiguous test text where that is all that is tested.
const AMBIGUOUS_USERS_PER_VALUE: usize = 3;
/// How many users ask a training text whose words say enough: several, so that the head learns not to look at features.
const TRAIN_USERS_PER_TEXT: usize = 4;
/// How many users of each value ask an ambiguous training text.
const TRAIN_USERS_PER_VALUE: usize = 2;

/// What a test question tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionKind {
    /// Its words say what is meant.
    Plain,
    /// Its words fit several intents; a feature of the user says which.
    Ambiguous,
    /// No intent answers it: right only when it is handed over.
    OutOfScope,
}

/// One line of questions.jsonl.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TestQuestion {
    /// What it tries.
    pub kind: QuestionKind,
    /// The question and its right intent.
    #[serde(flatten)]
    pub question: LabelledQuestion,
}

/// assets/questions.toml.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuestionTexts {
    pub(crate) plain: Vec<Plain>,
    pub(crate) ambiguous: Vec<Ambiguous>,
    pub(crate) out_of_scope: OutOfScope,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plain {
    pub(crate) intent: String,
    /// Values that the asking user must have.
    #[serde(default)]
    pub(crate) needs: BTreeMap<String, Value>,
    pub(crate) train: Vec<String>,
    pub(crate) test: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ambiguous {
    pub(crate) name: String,
    pub(crate) feature: String,
    /// Value of the feature -> the intent it decides for.
    pub(crate) intents: BTreeMap<String, String>,
    pub(crate) train: Vec<String>,
    pub(crate) test: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutOfScope {
    pub(crate) train: Vec<String>,
    pub(crate) test: Vec<String>,
}

impl QuestionTexts {
    pub(crate) fn parse(text: &str) -> Result<QuestionTexts> {
        toml::from_str(text).context("the question texts cannot be read")
    }
}

/// Gives every text to users of a tenant's shop. `features` are logged with each question, as a node would log them.
pub(crate) fn ask(texts: &QuestionTexts, shop: &Shop, tenant: &str, features: &[String]) -> Result<Questions> {
    let mut rng = StdRng::seed_from_u64(shop.seed ^ 0x5157_4553);
    let asking = Asking { shop, tenant, features };
    let mut train = asking.train(texts, &mut Askers::new(shop, Half::Even))?;
    let mut test_askers = Askers::new(shop, Half::Odd);
    let mut test = asking.test(texts, &mut test_askers)?;
    train.shuffle(&mut rng);
    test.shuffle(&mut rng);
    let ambiguous = asking.ambiguous(texts, &mut test_askers)?;
    Ok(Questions { train, test, ambiguous })
}

/// The questions of a shop.
#[derive(Debug)]
pub(crate) struct Questions {
    /// To train with.
    pub(crate) train: Vec<LabelledQuestion>,
    /// To test with, of every kind.
    pub(crate) test: Vec<TestQuestion>,
    /// Ambiguous texts alone, each from users of every value: what features are worth.
    pub(crate) ambiguous: Vec<TestQuestion>,
}

/// Gives a share of the questions another question's intent, drawn at random: what people who label get wrong.
pub(crate) fn mislabel(questions: &mut [LabelledQuestion], share: f64, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x4E4F_4953);
    let mut wrong: Vec<usize> = (0..questions.len()).collect();
    wrong.shuffle(&mut rng);
    wrong.truncate((questions.len() as f64 * share).round() as usize);
    let mut intents: Vec<String> = questions.iter().map(|question| question.intent.clone()).collect();
    intents.sort_unstable();
    intents.dedup();
    for question in wrong {
        let others: Vec<&String> = intents.iter().filter(|intent| **intent != questions[question].intent).collect();
        if let Some(other) = others.choose(&mut rng) {
            questions[question].intent = (*other).clone();
        }
    }
}

struct Asking<'a> {
    shop: &'a Shop,
    tenant: &'a str,
    features: &'a [String],
}

impl Asking<'_> {
    fn train(&self, texts: &QuestionTexts, askers: &mut Askers<'_>) -> Result<Vec<LabelledQuestion>> {
        let mut questions = Vec::new();
        for plain in &texts.plain {
            for text in repeated(&plain.train) {
                questions.push(self.question(text, &plain.intent, askers, &plain.needs)?);
            }
        }
        for group in &texts.ambiguous {
            for text in &group.train {
                for (value, intent) in &group.intents {
                    for _ in 0..TRAIN_USERS_PER_VALUE {
                        questions.push(self.question(text, intent, askers, &group.needs(value))?);
                    }
                }
            }
        }
        for text in repeated(&texts.out_of_scope.train) {
            questions.push(self.question(text, OUT_OF_SCOPE, askers, &BTreeMap::new())?);
        }
        Ok(questions)
    }

    fn test(&self, texts: &QuestionTexts, askers: &mut Askers<'_>) -> Result<Vec<TestQuestion>> {
        let mut questions = Vec::new();
        for (plain, text) in in_turn(&texts.plain).take(PLAIN_TESTS) {
            let question = self.question(text, &plain.intent, askers, &plain.needs)?;
            questions.push(TestQuestion { kind: QuestionKind::Plain, question });
        }
        ensure!(questions.len() == PLAIN_TESTS, "{} plain test texts, {PLAIN_TESTS} are needed", questions.len());
        for group in &texts.ambiguous {
            ensure!(!group.test.is_empty() && group.intents.len() > 1, "group {:?} has nothing to decide", group.name);
            let values: Vec<(&String, &String)> = group.intents.iter().collect();
            for n in 0..TESTS_PER_AMBIGUOUS_GROUP {
                // Each text goes to two users in turn, who differ in the feature that decides.
                let text = &group.test[n / 2 % group.test.len()];
                let (value, intent) = values[n % values.len()];
                let question = self.question(text, intent, askers, &group.needs(value))?;
                questions.push(TestQuestion { kind: QuestionKind::Ambiguous, question });
            }
        }
        let out_of_scope = &texts.out_of_scope.test;
        ensure!(
            out_of_scope.len() >= OUT_OF_SCOPE_TESTS,
            "{} out-of-scope test texts, {OUT_OF_SCOPE_TESTS} are needed",
            out_of_scope.len()
        );
        for text in &out_of_scope[..OUT_OF_SCOPE_TESTS] {
            let question = self.question(text, OUT_OF_SCOPE, askers, &BTreeMap::new())?;
            questions.push(TestQuestion { kind: QuestionKind::OutOfScope, question });
        }
        Ok(questions)
    }

    fn ambiguous(&self, texts: &QuestionTexts, askers: &mut Askers<'_>) -> Result<Vec<TestQuestion>> {
        let mut questions = Vec::new();
        for group in &texts.ambiguous {
            for text in &group.test {
                for (value, intent) in &group.intents {
                    for _ in 0..AMBIGUOUS_USERS_PER_VALUE {
                        let question = self.question(text, intent, askers, &group.needs(value))?;
                        questions.push(TestQuestion { kind: QuestionKind::Ambiguous, question });
                    }
                }
            }
        }
        Ok(questions)
    }

    fn question(
        &self,
        text: &str,
        intent: &str,
        askers: &mut Askers<'_>,
        needs: &BTreeMap<String, Value>,
    ) -> Result<LabelledQuestion> {
        let Some(customer) = askers.next(|customer| suits(self.shop, customer, needs)) else {
            bail!("no user can ask {text:?}, which needs {needs:?}; make a shop with more users, or a less uneven one");
        };
        let log = |feature: &String| -> Result<(String, Value)> {
            let value =
                self.shop.value(customer, feature).with_context(|| format!("the shop has no feature {feature:?}"))?;
            Ok((feature.clone(), value))
        };
        Ok(LabelledQuestion {
            tenant: self.tenant.to_owned(),
            user: customer.user.id.clone(),
            text: text.to_owned(),
            intent: intent.to_owned(),
            asked_at_ms: self.shop.now_ms,
            features: self.features.iter().map(log).collect::<Result<_>>()?,
        })
    }
}

impl Ambiguous {
    fn needs(&self, value: &str) -> BTreeMap<String, Value> {
        BTreeMap::from([(self.feature.clone(), Value::from(value))])
    }
}

/// Each training text as often as it is asked.
fn repeated(texts: &[String]) -> impl Iterator<Item = &String> {
    texts.iter().flat_map(|text| std::iter::repeat_n(text, TRAIN_USERS_PER_TEXT))
}

/// The first test text of every entry, then the second of every entry, and so on.
fn in_turn(entries: &[Plain]) -> impl Iterator<Item = (&Plain, &String)> {
    let longest = entries.iter().map(|entry| entry.test.len()).max().unwrap_or(0);
    (0..longest).flat_map(move |n| entries.iter().filter_map(move |entry| Some((entry, entry.test.get(n)?))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shop_locale::ENGLISH;

    const NOW_MS: i64 = 1_790_000_000_000;
    const TENANT: &str = "demo";

    fn shop(users: usize) -> Shop {
        Shop::new(3, users, NOW_MS, &ENGLISH).unwrap()
    }

    #[test]
    fn the_same_words_go_to_users_with_different_values() {
        let texts = Ambiguous {
            name: "where".to_owned(),
            feature: "orders:status".to_owned(),
            intents: [("delayed", "late"), ("in_transit", "moving"), ("delivered", "there")]
                .map(|(value, intent)| (value.to_owned(), intent.to_owned()))
                .into(),
            train: vec!["where is it".to_owned()],
            test: vec!["any news".to_owned(), "and now".to_owned()],
        };
        let texts = QuestionTexts {
            plain: vec![Plain {
                intent: "refund".to_owned(),
                needs: BTreeMap::new(),
                train: vec![],
                test: (0..PLAIN_TESTS).map(|n| format!("refund {n}")).collect(),
            }],
            ambiguous: vec![texts],
            out_of_scope: OutOfScope { train: vec![], test: vec!["moon".to_owned(); OUT_OF_SCOPE_TESTS] },
        };
        let features = vec!["orders:status".to_owned()];
        let Questions { train, test, ambiguous: all } = ask(&texts, &shop(500), TENANT, &features).unwrap();
        assert_eq!(all.len(), 2 * 3 * AMBIGUOUS_USERS_PER_VALUE, "every text from users of every value");
        assert_eq!(train.len(), 3 * TRAIN_USERS_PER_VALUE);
        let ambiguous: Vec<_> = test.iter().filter(|test| test.kind == QuestionKind::Ambiguous).collect();
        assert_eq!(ambiguous.len(), TESTS_PER_AMBIGUOUS_GROUP);
        for text in ["any news", "and now"] {
            let mut intents: Vec<&str> = ambiguous
                .iter()
                .filter(|test| test.question.text == text)
                .map(|test| test.question.intent.as_str())
                .collect();
            intents.sort_unstable();
            intents.dedup();
            assert_eq!(intents.len(), 3, "{text}");
        }
        for test in ambiguous {
            let status = test.question.features["orders:status"].as_str().unwrap();
            let expected = ["late", "moving", "there"]
                [["delayed", "in_transit", "delivered"].iter().position(|known| *known == status).unwrap()];
            assert_eq!(test.question.intent, expected);
        }
    }

    #[test]
    fn a_share_of_the_labels_is_wrong_and_no_more() {
        let question = |number: usize| LabelledQuestion {
            tenant: TENANT.to_owned(),
            user: number.to_string(),
            text: "where is it".to_owned(),
            intent: format!("intent_{}", number % 4),
            asked_at_ms: NOW_MS,
            features: BTreeMap::new(),
        };
        let right: Vec<LabelledQuestion> = (0..200).map(question).collect();
        let mut noisy = right.clone();
        mislabel(&mut noisy, 0.1, 42);
        assert_eq!(noisy.iter().zip(&right).filter(|(one, other)| one.intent != other.intent).count(), 20);
        let mut again = right.clone();
        mislabel(&mut again, 0.1, 42);
        assert_eq!(again, noisy);
    }

    #[test]
    fn a_shop_that_is_too_small_says_so() {
        let texts = QuestionTexts::parse(
            "ambiguous = []\n[[plain]]\nintent = \"a\"\nneeds = { \"profile:tier\" = \"platinum\" }\ntrain = [\"x\"]\ntest = []\n\
             [out_of_scope]\ntrain = []\ntest = []",
        )
        .unwrap();
        let error = ask(&texts, &shop(50), TENANT, &[]).unwrap_err().to_string();
        assert!(error.contains("platinum") && error.contains("more users"), "{error}");
    }
}
