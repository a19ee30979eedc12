//! Questions of a batch divided by the encoder that reads them, equal texts of a tenant gathered into one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use larder_model::{Encoder, Error, Tokens};
use larder_store::Breaker;

use crate::answer_cache::{AnswerCache, ScoresKey};
use crate::cost::CostModel;
use crate::question::Admitted;
use crate::rung::{Choice, Rung, Source, Why};
use crate::scores::Scores;
use crate::tenant::{Ranker, Tenant};

/// A question of a fetched batch.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) question: Admitted,
    pub(crate) choice: Choice,
    /// The row of its user in the batch's features; none for a question of nobody in particular.
    pub(crate) row: Option<usize>,
}

/// A question and what its words say.
pub(crate) struct Scored {
    pub(crate) member: Member,
    pub(crate) scores: Arc<Scores>,
}

/// The questions of a batch that one encoder reads, tokenised.
pub(crate) struct Group {
    pub(crate) rung: Rung,
    pub(crate) encoder: Encoder,
    pub(crate) cost: Arc<CostModel>,
    pub(crate) breaker: Arc<Breaker>,
    pub(crate) texts: Vec<SameText>,
    /// One text for each of `texts`, in order.
    pub(crate) tokens: Result<Tokens, Error>,
}

/// Questions of one tenant in the same words, which are encoded once.
pub(crate) struct SameText {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) key: ScoresKey,
    /// At least one.
    pub(crate) members: Vec<Member>,
}

impl Group {
    /// Divides questions by rung and encoder and tokenises them. A tenant that has no light rung has its questions read by its full one.
    pub(crate) fn divide(members: impl IntoIterator<Item = (Member, Rung)>) -> Vec<Group> {
        let mut gathered: Vec<Gathered> = Vec::new();
        for (mut member, rung) in members {
            let tenant = member.question.tenant.clone();
            let (ranker, rung) = tenant.ranker(rung).map_or((&tenant.full, Rung::Full), |ranker| (ranker, rung));
            member.choice.source = Source::Model(rung);
            // Equal names mean equal vectors.
            let same = |group: &Gathered| group.rung == rung && group.encoder.name() == ranker.encoder.name();
            let at = gathered.iter().position(same).unwrap_or_else(|| {
                gathered.push(Gathered::new(rung, ranker));
                gathered.len() - 1
            });
            gathered[at].add(member, &tenant);
        }
        gathered.into_iter().map(Gathered::tokenize).collect()
    }

    /// The group without the questions that are lost and without those whose scores have come into the cache since it was made: these come
    /// second.
    pub(crate) fn still_to_score(self, answers: &AnswerCache, now: Instant) -> (Group, Vec<Scored>) {
        let (mut kept, mut texts, mut known) = (Vec::new(), Vec::new(), Vec::new());
        let before = self.texts.len();
        for (at, mut text) in self.texts.into_iter().enumerate() {
            text.members.retain(|member| !member.question.is_lost(now));
            match answers.get(&text.key) {
                Some(scores) => known.extend(text.members.into_iter().map(|member| member.found(scores.clone()))),
                None if text.members.is_empty() => {}
                None => {
                    kept.push(at);
                    texts.push(text);
                }
            }
        }
        let fewer = |tokens: Tokens| if kept.len() < before { tokens.select(&kept) } else { tokens };
        (Group { texts, tokens: self.tokens.map(fewer), ..self }, known)
    }

    /// Estimated tokens of what is to be encoded, in which the cost model learns.
    pub(crate) fn estimated_tokens(&self) -> usize {
        let of_text = |text: &SameText| {
            let limit = text.tenant.ranker(self.rung).map_or(usize::MAX, |ranker| ranker.max_tokens);
            text.members.first().map_or(0, |member| member.question.estimated_tokens.min(limit))
        };
        self.texts.iter().map(of_text).sum()
    }

    /// All its questions.
    pub(crate) fn into_members(self) -> Vec<Member> {
        self.texts.into_iter().flat_map(|text| text.members).collect()
    }
}

impl SameText {
    fn words(&self) -> &str {
        self.members.first().map_or("", |member| &member.question.question.text)
    }
}

impl Member {
    /// Not answered on its rung, for that reason.
    pub(crate) fn stepping_down(mut self, why: Why) -> Member {
        self.choice.why = why;
        self
    }

    /// Its scores were found just before they would have been made.
    fn found(mut self, scores: Arc<Scores>) -> Scored {
        self.choice = Choice { source: Source::Cached(scores.rung), why: Why::AskedBefore };
        Scored { member: self, scores }
    }
}

/// A group on its way.
struct Gathered {
    rung: Rung,
    encoder: Encoder,
    cost: Arc<CostModel>,
    breaker: Arc<Breaker>,
    texts: Vec<SameText>,
    by_key: HashMap<ScoresKey, usize>,
}

impl Gathered {
    fn new(rung: Rung, ranker: &Ranker) -> Gathered {
        let (encoder, cost, breaker) = (ranker.encoder.clone(), ranker.cost.clone(), ranker.breaker.clone());
        Gathered { rung, encoder, cost, breaker, texts: Vec::new(), by_key: HashMap::new() }
    }

    fn add(&mut self, member: Member, tenant: &Arc<Tenant>) {
        let key = ScoresKey::new(tenant.id, self.rung, self.encoder.name(), &member.question.question.text);
        let at = *self.by_key.entry(key).or_insert_with(|| {
            self.texts.push(SameText { tenant: tenant.clone(), key, members: Vec::new() });
            self.texts.len() - 1
        });
        self.texts[at].members.push(member);
    }

    fn tokenize(self) -> Group {
        let texts: Vec<&str> = self.texts.iter().map(SameText::words).collect();
        let tokens = self.encoder.tokenize(&texts);
        Group {
            rung: self.rung,
            encoder: self.encoder,
            cost: self.cost,
            breaker: self.breaker,
            texts: self.texts,
            tokens,
        }
    }
}
