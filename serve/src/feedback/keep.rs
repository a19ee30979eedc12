//! What an answer pays for feedback: a draw and, where it falls on the answer, a copy of what a head could learn from it and a place in a
//! channel. Nothing here waits: where the channel is full the answer is not kept, which is counted.

use std::fmt;
use std::sync::mpsc::{SyncSender, TrySendError};

use larder_model::AnsweredQuestion;

use crate::feedback::record::{AnswerId, KeptAnswer};
use crate::feedback::writer::{Command, Keeping};
use crate::fetch::Common;
use crate::group::Member;
use crate::metrics;
use crate::question::Answer;

/// Keeps a share of the answers.
pub(crate) struct Keeper {
    /// Answers whose id ends in no greater number than this are kept.
    share: u64,
    commands: SyncSender<Command>,
}

impl Keeper {
    /// None where no answer shall be kept.
    pub(crate) fn new(share: f64, commands: SyncSender<Command>) -> Option<Keeper> {
        // A float becomes the nearest integer there is, so 1 is all of them.
        (share > 0.0).then(|| Keeper { share: (share * u64::MAX as f64) as u64, commands })
    }

    /// Keeps the answer to a ranked question, if the draw falls on it, and returns its name. Nobody's answers are not kept: nobody could have
    /// them erased.
    pub(crate) fn keep(&self, member: &Member, answer: &Answer, common: &Common) -> Option<AnswerId> {
        let (id, context) = (AnswerId::random(), &member.question.context);
        if id.0 as u64 > self.share || context.user.is_empty() {
            return None;
        }
        let row = common.features.as_deref().zip(member.row);
        let kept = AnsweredQuestion {
            tenant: String::new(),
            user: context.user.clone(),
            text: member.question.question.text.clone(),
            asked_at_ms: common.now_ms,
            features: member.question.tenant.layout.logged(row),
            answered: answer.intent.clone(),
            confidence: answer.confidence,
            rung: answer.choice.source.label().to_owned(),
            candidates: answer.candidates.iter().map(|near| (near.intent.clone(), near.probability)).collect(),
        };
        let kept = KeptAnswer { answer_id: id.to_string(), answer: kept };
        match self.commands.try_send(Command::Keep(Box::new(Keeping { tenant: context.tenant_id, id, kept }))) {
            Ok(()) => Some(id),
            Err(TrySendError::Full(_)) => {
                metrics::feedback_answers("dropped", 1);
                None
            }
            // The node stops.
            Err(TrySendError::Disconnected(_)) => None,
        }
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Keeper").field("share", &self.share).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::test_engine::TestEngine;

    #[test]
    fn an_answer_has_an_id_only_where_it_is_kept_and_nobody_waits_for_room() {
        let test = TestEngine::open("");
        let [before] = test.answer([("one", "open", None)]).map(Result::unwrap);
        assert_eq!(before.id, None, "nothing is kept");
        let (commands, told) = sync_channel(1);
        test.engine.keeper.set(Keeper::new(1.0, commands).unwrap()).unwrap();
        let [first, second] = test.answer([("one", "gift", None), ("one", "parcel", None)]).map(Result::unwrap);
        assert_eq!((first.id.is_some(), second.id), (true, None), "the channel is full");
        let Ok(Command::Keep(keeping)) = told.recv() else { panic!("it was not kept") };
        assert_eq!((Some(keeping.id), keeping.tenant.0), (first.id, 1));
        let AnsweredQuestion { user, text, answered, confidence, rung, .. } = &keeping.kept.answer;
        assert_eq!(
            (user.as_str(), text.as_str(), answered.as_str(), rung.as_str()),
            ("user-1", "gift", "gift", "full")
        );
        assert_eq!(confidence.to_bits(), first.confidence.to_bits());
        drop(told);
        let [last] = test.answer([("one", "password", None)]).map(Result::unwrap);
        assert_eq!((last.id, last.intent.as_str()), (None, "password"), "it is answered all the same");
    }

    #[test]
    fn the_share_decides_how_many_are_kept() {
        let keeper = |share| Keeper::new(share, sync_channel(1).0);
        assert!(keeper(0.0).is_none());
        let kept = |share| {
            let keeper = keeper(share).unwrap();
            (0..20_000).filter(|_| AnswerId::random().0 as u64 <= keeper.share).count()
        };
        assert_eq!(kept(1.0), 20_000);
        let tenth = kept(0.1);
        assert!((1_700..2_300).contains(&tenth), "{tenth}: seven standard deviations");
    }
}
