//! Who asks what: draws class, tenant, user and text of each question of a load.
//!
//! A draw depends on the seed and on the question's number alone, so that the same load is asked whatever the number of threads.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use larder_model::OUT_OF_SCOPE;
use larder_serve::{Class, v1};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::questions::{Question, built_in};
use super::shares::Shares;
use super::trace::{Trace, TraceLine};
use super::users::{Users, sendable};
use super::wording::{WORDINGS, reworded};

/// The most tenants that a report can tell apart.
const MAX_TENANTS: usize = 256;

/// Spreads numbers that follow each other over all 64 bits.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// What a load is mixed from. `None` and empty lists stand for the usual.
#[derive(Debug, Clone, Default)]
pub struct Ingredients {
    /// Texts; empty = a few that any shop's customers ask.
    pub questions: Vec<Question>,
    /// Classes and their shares; absent = all normal.
    pub classes: Option<Shares>,
    /// Tenants and their shares; absent = each question's own, or the node's default.
    pub tenants: Option<Shares>,
    /// Who asks; absent = each question's own user, or nobody in particular.
    pub users: Option<Users>,
    /// Whether every text is made unique.
    pub unique: bool,
}

/// A mix, ready to draw from.
#[derive(Debug)]
pub struct Mix {
    questions: Vec<Question>,
    classes: Shares,
    shares_of_tenants: Option<Shares>,
    tenants: Vec<String>,
    users: Option<Users>,
    unique: bool,
    /// Of each question, how many others before it have the same text, and how many have it in all.
    repeats: Vec<(u64, u64)>,
    seed: u64,
}

/// One question of a load.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ask {
    pub(crate) text: String,
    /// Empty = nobody in particular.
    pub(crate) user: String,
    /// Index into `Mix::classes`.
    pub(crate) class: usize,
    /// Index into `Mix::tenants`.
    pub(crate) tenant: usize,
    /// The number of the question whose right intent is known.
    pub(crate) labelled: Option<usize>,
}

impl Mix {
    /// Mixes; `trace` may name tenants and classes of its own.
    pub fn new(ingredients: Ingredients, trace: Option<&Trace>, seed: u64) -> Result<Mix> {
        let Ingredients { mut questions, classes, tenants: shares_of_tenants, users, unique } = ingredients;
        if questions.is_empty() {
            questions = built_in();
        }
        questions.shuffle(&mut StdRng::seed_from_u64(seed));
        let classes = match classes {
            None => vec![(Class::Normal.label().to_owned(), 1.0)],
            Some(shares) => shares.weights(),
        };
        for (name, _) in &classes {
            ensure!(Class::parse(name).is_some(), "there is no class {name:?}; there are vip, normal and bulk");
        }
        let mut weights = classes;
        let traced = trace.map(Trace::lines).unwrap_or_default();
        for class in traced.iter().filter_map(|line| line.class) {
            if !weights.iter().any(|(name, _)| name == class.label()) {
                weights.push((class.label().to_owned(), 0.0));
            }
        }
        let mut tenants: Vec<String> = match &shares_of_tenants {
            Some(shares) => shares.names().to_vec(),
            None => {
                let own = |question: &Question| question.tenant.clone().unwrap_or_default();
                questions.iter().map(own).collect()
            }
        };
        tenants.extend(traced.iter().filter_map(|line| line.tenant.clone()));
        tenants.sort_unstable();
        tenants.dedup();
        ensure!(tenants.len() <= MAX_TENANTS, "{} tenants; at most {MAX_TENANTS} are allowed", tenants.len());
        let users_of_questions = questions.iter().filter_map(|question| question.user.as_ref());
        let users_of_trace = traced.iter().filter_map(|line| line.user.as_ref());
        for name in tenants.iter().chain(users_of_questions).chain(users_of_trace) {
            ensure!(sendable(name), "{name:?}: only visible ASCII characters can be sent as a tenant or a user");
        }
        let repeats = repeats(&questions);
        Ok(Mix { questions, classes: Shares::new(weights)?, shares_of_tenants, tenants, users, unique, repeats, seed })
    }

    /// The names of the classes.
    pub(crate) fn classes(&self) -> &[String] {
        self.classes.names()
    }

    /// The names of the tenants; an empty one is the node's default.
    pub(crate) fn tenants(&self) -> &[String] {
        &self.tenants
    }

    /// The question of that number; what a trace recorded of it stands.
    pub(crate) fn ask(&self, number: u64, line: Option<&TraceLine>) -> Ask {
        let mut rng = StdRng::seed_from_u64(self.seed ^ number.wrapping_mul(SPREAD));
        let (class, tenant, user): (f64, f64, f64) = (rng.random(), rng.random(), rng.random());
        let recorded = line.and_then(|line| line.text.as_deref());
        let (round, index) = (number / self.questions.len() as u64, (number % self.questions.len() as u64) as usize);
        let question = &self.questions[index];
        let text = recorded.unwrap_or(&question.text);
        let tenant_of_question = question.tenant.as_deref().unwrap_or_default();
        let tenant = match (line.and_then(|line| line.tenant.as_deref()), &self.shares_of_tenants) {
            (Some(recorded), _) => recorded,
            (None, Some(shares)) => &shares.names()[shares.at(tenant)],
            (None, None) => tenant_of_question,
        };
        let user = match (line.and_then(|line| line.user.as_ref()), &self.users) {
            (Some(recorded), _) => recorded.clone(),
            (None, Some(users)) => users.at(user),
            (None, None) => question.user.clone().unwrap_or_default(),
        };
        let class = match line.and_then(|line| line.class) {
            Some(recorded) => self.classes().iter().position(|name| name == recorded.label()).unwrap_or_default(),
            None => self.classes.at(class),
        };
        Ask {
            text: if self.unique {
                reworded(text, self.wording(index, round, recorded.map(|_| number)))
            } else {
                text.to_owned()
            },
            user,
            class,
            tenant: self.tenants.binary_search_by(|name| name.as_str().cmp(tenant)).unwrap_or_default(),
            labelled: (recorded.is_none() && question.intent.is_some()).then_some(index),
        }
    }

    /// Each text counts its uses, by whichever question, from a place that depends on the seed, so that runs hardly repeat each other's
    /// texts; recorded texts, which may repeat in any way, count all questions.
    fn wording(&self, question: usize, round: u64, recorded: Option<u64>) -> u64 {
        let (before, all) = self.repeats[question];
        recorded
            .unwrap_or(round.wrapping_mul(all).wrapping_add(before))
            .wrapping_add(self.seed.wrapping_mul(SPREAD) % WORDINGS)
    }

    /// Whether a reply is right: the known intent; out of scope, a person taking over.
    pub(crate) fn is_right(&self, question: usize, reply: &v1::AnswerReply) -> bool {
        match self.questions[question].intent.as_deref() {
            Some(OUT_OF_SCOPE) => reply.handed_over,
            Some(intent) => !reply.handed_over && reply.intent == intent,
            None => false,
        }
    }
}

/// Of each question, how many before it have the same text, and how many have it in all: the same words may be several people's.
fn repeats(questions: &[Question]) -> Vec<(u64, u64)> {
    let mut uses: HashMap<&str, u64> = HashMap::with_capacity(questions.len());
    let before: Vec<u64> = questions
        .iter()
        .map(|question| {
            let used = uses.entry(&question.text).or_default();
            *used += 1;
            *used - 1
        })
        .collect();
    questions.iter().zip(before).map(|(question, before)| (before, uses[question.text.as_str()])).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn labelled(text: &str, intent: &str, user: &str) -> Question {
        Question { text: text.to_owned(), intent: Some(intent.to_owned()), user: Some(user.to_owned()), tenant: None }
    }

    fn mix(ingredients: Ingredients) -> Mix {
        Mix::new(ingredients, None, 7).unwrap()
    }

    #[test]
    fn shares_come_out_and_the_draw_is_the_same_each_time() {
        let classes = Some(Shares::parse(&["vip=0.1,normal=0.9".to_owned()]).unwrap());
        let tenants = Some(Shares::parse(&["demo=3".to_owned(), "other=1".to_owned()]).unwrap());
        let mix =
            mix(Ingredients { classes, tenants, users: Some(Users::numbered("u", 9).unwrap()), ..Default::default() });
        let asks: Vec<Ask> = (0..10_000).map(|number| mix.ask(number, None)).collect();
        let share = |of: &dyn Fn(&Ask) -> bool| asks.iter().filter(|ask| of(ask)).count() as f64 / 10_000.0;
        assert!((share(&|ask| mix.classes()[ask.class] == "vip") - 0.1).abs() < 0.012);
        assert!((share(&|ask| mix.tenants()[ask.tenant] == "demo") - 0.75).abs() < 0.02);
        assert!((share(&|ask| ask.user == "u0000003") - 1.0 / 9.0).abs() < 0.012);
        assert_eq!(mix.ask(4_711, None), asks[4_711]);
    }

    #[test]
    fn a_labelled_question_keeps_its_user_and_knows_its_answer() {
        let questions = vec![labelled("where is it?", "transit", "u1"), labelled("2 + 2?", OUT_OF_SCOPE, "u2")];
        let mix = mix(Ingredients { questions, ..Default::default() });
        for ask in (0..2).map(|number| mix.ask(number, None)) {
            let transit = ask.text == "where is it?";
            assert_eq!(ask.user, if transit { "u1" } else { "u2" });
            let question = ask.labelled.unwrap();
            let named = v1::AnswerReply { intent: "transit".to_owned(), ..Default::default() };
            let handed_over = v1::AnswerReply { handed_over: true, ..Default::default() };
            assert_eq!(mix.is_right(question, &named), transit);
            assert_eq!(mix.is_right(question, &handed_over), !transit);
        }
    }

    #[test]
    fn unique_texts_never_repeat_and_keep_their_labels() {
        // The same words from two people, who mean different things.
        let questions = [("where is it?", "a", "u1"), ("my parcel?", "b", "u1"), ("where is it?", "c", "u2")];
        let questions = questions.map(|(text, intent, user)| labelled(text, intent, user)).to_vec();
        let mix = mix(Ingredients { questions, unique: true, ..Default::default() });
        let asks: Vec<Ask> = (0..5_000).map(|number| mix.ask(number, None)).collect();
        assert_eq!(asks.iter().map(|ask| &ask.text).collect::<HashSet<_>>().len(), 5_000);
        assert!(asks.iter().all(|ask| ask.labelled.is_some()));
    }

    #[test]
    fn what_a_trace_recorded_stands() {
        let trace = Trace::parse(
            "{\"offset_ms\": 0, \"class\": \"bulk\", \"tenant\": \"t2\", \"user\": \"u9\", \"text\": \"hello?\"}",
        )
        .unwrap();
        let mix = Mix::new(Ingredients::default(), Some(&trace), 1).unwrap();
        let ask = mix.ask(0, Some(&trace.lines()[0]));
        assert_eq!((mix.classes()[ask.class].as_str(), mix.tenants()[ask.tenant].as_str()), ("bulk", "t2"));
        assert_eq!((ask.user.as_str(), ask.text.as_str(), ask.labelled), ("u9", "hello?", None));
    }

    #[test]
    fn a_class_that_is_none_is_refused() {
        let classes = Some(Shares::one("gold"));
        let error = Mix::new(Ingredients { classes, ..Default::default() }, None, 1).unwrap_err().to_string();
        assert!(error.contains("gold") && error.contains("vip, normal and bulk"), "{error}");
    }
}
