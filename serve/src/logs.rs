//! The numbers of the node's logs in the store, in one place: a number belongs to its log for ever, since it is part of every stored key.

/// Questions of the async lane that wait, by tenant.
pub(crate) const LANE_QUESTIONS: u16 = 1;
/// Answers of the async lane, by user.
pub(crate) const LANE_ANSWERS: u16 = 2;
/// Answers that wait for feedback.
pub(crate) const FEEDBACK_ANSWERS: u16 = 3;
/// Answers with the feedback that was given.
pub(crate) const FEEDBACK_GIVEN: u16 = 4;
