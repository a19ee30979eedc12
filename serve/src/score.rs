//! The score stage: a fetched batch becomes answers, the cheapest first, so that nobody waits for a forward that is not his own.
//!
//! First what needs no encoder at all, then the light rung, then the full one; the questions of each group are answered as soon as the group
//! is ranked. A question whose rung fails steps down: from full to light where its tenant has that rung, from there to the fallback text,
//! and only where the operator does not want that text is it refused.

use std::collections::VecDeque;
use std::time::Instant;

use crate::compose;
use crate::engine::Engine;
use crate::error::Refusal;
use crate::fetch::{Common, FetchedBatch};
use crate::group::{Group, Member, Scored};
use crate::metrics::Stage;
use crate::question::{Answer, Timings};
use crate::rank::{Outcome, Ranked, rank, score};
use crate::rung::{Rung, Source, Why};

/// Answers a batch to its last question.
pub(crate) fn answer(engine: &Engine, batch: FetchedBatch) {
    let FetchedBatch { fallback, scored, groups, common } = batch;
    let stage = ScoreStage { engine, common: &common };
    fallback.into_iter().for_each(|member| stage.fall_back(member));
    engine.counters.looked_for_answers(scored.len(), 0);
    let failed = stage.answer_scored(scored);
    let mut groups = VecDeque::from(groups);
    groups.extend(stage.step_down(failed));
    while let Some(group) = groups.pop_front() {
        let failed = stage.answer_group(group);
        groups.extend(stage.step_down(failed));
    }
}

struct ScoreStage<'a> {
    engine: &'a Engine,
    common: &'a Common,
}

impl ScoreStage<'_> {
    /// Answers the questions of one encoder and returns those that it failed.
    fn answer_group(&self, group: Group) -> Vec<Member> {
        let answers = &self.engine.answers;
        // The batch before this one may have scored the same words, or taken so long that nobody waits any more.
        let (group, known) = group.still_to_score(answers, Instant::now());
        let counters = &self.engine.counters;
        if answers.is_on() {
            counters.looked_for_answers(known.len(), group.texts.iter().map(|text| text.members.len()).sum());
        }
        let mut failed = self.answer_scored(known);
        if group.texts.is_empty() {
            return failed;
        }
        let began = Instant::now();
        let Ok(pass) = group.breaker.ask(began) else {
            failed.extend(group.into_members().into_iter().map(|member| member.stepping_down(Why::Resting)));
            return failed;
        };
        let (rung, cost, breaker, tokens) =
            (group.rung, group.cost.clone(), group.breaker.clone(), group.estimated_tokens());
        let Outcome { done, failed: unscored } = score(group, |text, scores| answers.insert(text.key, scores.clone()));
        match (done.is_empty(), unscored.is_empty()) {
            (true, false) => drop(breaker.failed(pass, Instant::now())),
            _ => breaker.succeeded(pass),
        }
        let Outcome { done, failed: unranked } = rank(done, self.common);
        let ended = Instant::now();
        // What a failing encoder took says nothing about the next batch.
        if unscored.is_empty() && unranked.is_empty() {
            cost.observe(tokens, ended - began);
        }
        counters.group_scored(rung, ended - began);
        failed.extend(unscored.into_iter().chain(unranked).map(|member| member.stepping_down(Why::Failed)));
        self.send(done, began, ended);
        failed
    }

    /// Answers questions whose scores were there, and returns those that could not be ranked.
    fn answer_scored(&self, scored: Vec<Scored>) -> Vec<Member> {
        if scored.is_empty() {
            return Vec::new();
        }
        let began = Instant::now();
        let Outcome { done, failed } = rank(scored, self.common);
        self.send(done, began, Instant::now());
        failed.into_iter().map(|member| member.stepping_down(Why::Failed)).collect()
    }

    /// Renders the answers of questions whose scoring began and ended at these times, and sends them: all at once, because each wakes an I/O
    /// thread, which on a busy core takes the place of this one.
    fn send(&self, ranked: Vec<Ranked>, began: Instant, ended: Instant) {
        self.engine.counters.passed(Stage::Ready, began - self.common.clock.tokenized);
        self.engine.counters.passed(Stage::Score, ended - began);
        let render = |ranked: Ranked| {
            let rendering = Instant::now();
            let mut answer = compose::answer(&ranked, self.common);
            answer.id = self.engine.keeper.get().and_then(|keeper| keeper.keep(&ranked.member, &answer, self.common));
            answer.timings = Timings {
                ready: began - self.common.clock.tokenized,
                score: ended - began,
                render: rendering.elapsed(),
                ..answer.timings
            };
            (ranked.member, answer)
        };
        let answers: Vec<(Member, Answer)> = ranked.into_iter().map(render).collect();
        answers.into_iter().for_each(|(member, answer)| self.finish(member, answer));
    }

    /// Questions that their rung failed, on the next one.
    fn step_down(&self, failed: Vec<Member>) -> Vec<Group> {
        let mut lighter = Vec::new();
        for mut member in failed {
            let was_full = matches!(member.choice.source, Source::Model(Rung::Full) | Source::Cached(Rung::Full));
            if was_full && member.question.tenant.light.is_some() {
                lighter.push((member, Rung::Light));
            } else if self.engine.rungs.fallback {
                member.choice.source = Source::Fallback;
                self.fall_back(member);
            } else {
                let why = "the question could not be ranked; the node's log says why";
                member.question.finish(Err(Refusal::Internal(why.to_owned())));
            }
        }
        Group::divide(lighter)
    }

    fn fall_back(&self, member: Member) {
        let answer = compose::fallback(&member, self.common);
        self.finish(member, answer);
    }

    /// Sends an answer, with the times that it shares with its batch and those that end with it.
    fn finish(&self, member: Member, mut answer: Answer) {
        let (clock, arrived) = (&self.common.clock, member.question.arrived);
        answer.timings = Timings {
            queue: clock.closed.saturating_duration_since(arrived),
            fetch: clock.fetched - clock.closed,
            tokenize: clock.tokenized - clock.fetched,
            total: arrived.elapsed(),
            ..answer.timings
        };
        let counters = &self.engine.counters;
        counters.passed(Stage::Queue, answer.timings.queue);
        counters.passed(Stage::Render, answer.timings.render);
        counters.left(answer.timings.total);
        member.question.finish(Ok(answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rung::Choice;
    use crate::test_engine::{POISON, TestEngine, outcome};

    const FULL: Choice = Choice::FIRST;
    const LIGHT: Choice = Choice { source: Source::Model(Rung::Light), why: Why::Busy };
    const FALLBACK: Choice = Choice { source: Source::Fallback, why: Why::Busy };
    const FOUND: Choice = Choice { source: Source::Cached(Rung::Full), why: Why::AskedBefore };

    #[test]
    fn each_question_is_answered_on_its_rung_the_cheapest_first() {
        let test = TestEngine::open("");
        let asked = [("one", "open", Some(FULL)), ("one", "gift", Some(LIGHT)), ("two", "open", Some(FALLBACK))];
        let [full, light, fallback] = test.answer(asked).map(Result::unwrap);
        assert_eq!((full.choice, full.intent.as_str(), full.request_id.as_str()), (FULL, "open", "open"));
        assert_eq!((light.choice, light.intent.as_str()), (LIGHT, "gift"));
        assert!(light.timings.ready + light.timings.score <= full.timings.ready, "the light answer waits for nobody");

        assert_eq!((fallback.choice, fallback.text.as_str()), (FALLBACK, "Somebody of two will help."));
        assert_eq!((fallback.handed_over, fallback.confidence, fallback.intent.as_str()), (true, 0.0, ""));
        assert!(fallback.candidates.is_empty() && fallback.views.is_empty() && fallback.notes.is_empty());
    }

    #[test]
    fn a_question_that_no_rung_can_rank_gets_the_text_or_is_refused() {
        let asked = [("one", POISON, Some(FULL)), ("one", "open", Some(LIGHT))];
        let [poisoned, light] = TestEngine::open("").answer(asked).map(Result::unwrap);
        assert_eq!(poisoned.choice, Choice { source: Source::Fallback, why: Why::Failed });
        assert_eq!((light.choice, light.intent.as_str()), (LIGHT, "open"), "it was not in the failing forward");

        let test = TestEngine::open("[rungs]\nfallback = false");
        let [poisoned] = test.answer([("one", POISON, Some(FULL))]);
        assert!(matches!(poisoned.unwrap_err(), Refusal::Internal(why) if why.contains("could not be ranked")));
        let test = TestEngine::open("[rungs]\nlight = false");
        let [poisoned, other] = test.answer([("one", POISON, Some(FULL)), ("one", "open", Some(FULL))]);
        assert_eq!(poisoned.unwrap().choice.source, Source::Fallback);
        assert_eq!(other.unwrap().choice.source, Source::Fallback, "there is no light rung");
    }

    #[test]
    fn equal_words_are_encoded_once_for_each_tenant() {
        let test = TestEngine::open("");
        let asked = [("one", "open"), ("two", "open"), ("one", "open"), ("one", "gift")];
        let (batch, replies) = test.fetch(asked.map(|(tenant, text)| (tenant, text, None)));
        let mut texts: Vec<_> =
            batch.groups[0].texts.iter().map(|text| (text.tenant.name.as_str(), text.members.len())).collect();
        texts.sort_unstable();
        assert_eq!(texts, [("one", 1), ("one", 2), ("two", 1)]);
        assert_eq!(batch.groups[0].tokens.as_ref().unwrap().len(), 3);
        test.score(batch);
        let intents = replies.map(|reply| outcome(reply).unwrap().intent);
        assert_eq!(intents, ["open", "open", "open", "gift"]);
    }

    #[test]
    fn what_was_scored_meanwhile_is_not_encoded_again() {
        for (lines, expected) in [("", FOUND), ("[rungs]\ncache_mib = 0", FULL), ("[rungs]\ncached = false", FULL)] {
            let test = TestEngine::open(lines);
            let (first, [first_reply]) = test.fetch([("one", "open parcel", None)]);
            let (second, [again, other_tenant]) =
                test.fetch([("one", "open parcel", None), ("two", "open parcel", None)]);
            test.score(first);
            test.score(second);
            let [first, again, other_tenant] = [first_reply, again, other_tenant].map(|reply| outcome(reply).unwrap());
            assert_eq!((first.choice, again.choice, other_tenant.choice), (FULL, expected, FULL), "{lines}");
            assert_eq!(again.confidence.to_bits(), first.confidence.to_bits());
            assert_eq!((again.text, again.candidates[1].probability), (first.text, first.candidates[1].probability));
            // By now they are there when it is let in.
            let [third] = test.answer([("one", "open parcel", None)]).map(Result::unwrap);
            assert_eq!((third.choice, third.confidence.to_bits()), (expected, first.confidence.to_bits()), "{lines}");
        }
    }

    #[test]
    fn the_light_rungs_scores_are_kept_apart() {
        let test = TestEngine::open("");
        let [light] = test.answer([("one", "open", Some(LIGHT))]).map(Result::unwrap);
        let [full] = test.answer([("one", "open", None)]).map(Result::unwrap);
        let [again] = test.answer([("one", "open", Some(LIGHT))]).map(Result::unwrap);
        assert_eq!((light.choice, full.choice), (LIGHT, FULL));
        assert_eq!(again.choice, Choice { source: Source::Cached(Rung::Light), why: Why::AskedBefore });
        assert_eq!(again.confidence.to_bits(), light.confidence.to_bits());
    }

    #[test]
    fn who_has_gone_is_not_encoded() {
        let test = TestEngine::open("");
        let (batch, [first, gone, last]) = test.fetch(["open", "gift", "parcel"].map(|text| ("one", text, None)));
        drop(gone);
        test.score(batch);
        let key =
            |text| crate::answer_cache::ScoresKey::of(test.engine.tenant("one").unwrap(), Rung::Full, text).unwrap();
        let encoded = ["open", "gift", "parcel"].map(|text| test.engine.answers.get(&key(text)).is_some());
        assert_eq!(encoded, [true, false, true]);
        assert_eq!(
            [first, last].map(|reply| outcome(reply).unwrap().intent),
            ["open", "parcel"],
            "each its own tokens"
        );
        assert_eq!(test.engine.queue.backlog().questions, 0);
    }
}
