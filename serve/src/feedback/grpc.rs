//! The Feedback service: Give.

use std::sync::Arc;

use larder_model::OUT_OF_SCOPE;
use tonic::{Request, Response, Status};

use crate::error::Refusal;
use crate::feedback::record::{AnswerId, Verdict};
use crate::feedback::writer::Outcome;
use crate::identity::USER_HEADER;
use crate::metrics;
use crate::node::Shared;
use crate::v1::feedback_server::Feedback as FeedbackCalls;
use crate::v1::{FeedbackOutcome, GiveFeedbackReply, GiveFeedbackRequest};

#[derive(Debug)]
pub(crate) struct FeedbackService {
    shared: Arc<Shared>,
}

impl FeedbackService {
    pub(crate) fn new(shared: Arc<Shared>) -> FeedbackService {
        FeedbackService { shared }
    }

    async fn note(&self, request: Request<GiveFeedbackRequest>) -> Result<Outcome, Refusal> {
        let context = self.shared.identity.asker(request.metadata())?;
        if context.user.is_empty() {
            let message = format!("the call names no user: set {USER_HEADER} to the user who was answered");
            return Err(Refusal::Invalid(message));
        }
        let GiveFeedbackRequest { answer_id, helped, right_intent } = request.into_inner();
        let answer: AnswerId = answer_id.parse().map_err(|()| {
            let found = answer_id.len();
            let form = "must be the answer_id of a reply, 32 hexadecimal digits in lower case";
            Refusal::Invalid(format!("answer_id of {found} bytes: {form}; a reply without one cannot have feedback"))
        })?;
        let engine = self.shared.serving()?;
        let tenant = engine.tenant(&context.tenant)?;
        let right_intent = Some(right_intent).filter(|intent| !intent.is_empty());
        if let Some(intent) = &right_intent
            && intent != OUT_OF_SCOPE
            && tenant.catalogue.position(intent).is_none()
        {
            // What a stranger sends is not repeated at any length.
            let shown: String = intent.chars().take(64).collect();
            let message =
                format!("right_intent = {shown:?}: must be an intent of the tenant's catalogue, or {OUT_OF_SCOPE}");
            return Err(Refusal::Invalid(message));
        }
        let feedback = self.shared.feedback.get().ok_or_else(Refusal::draining)?;
        feedback.give(context.tenant_id, context.user, answer, Verdict { helped, right_intent }).await
    }
}

#[tonic::async_trait]
impl FeedbackCalls for FeedbackService {
    async fn give(&self, request: Request<GiveFeedbackRequest>) -> Result<Response<GiveFeedbackReply>, Status> {
        let outcome = self.note(request).await;
        metrics::feedback_given(match &outcome {
            Ok(Outcome::Recorded) => "recorded",
            Ok(Outcome::Repeated) => "repeated",
            Ok(Outcome::Changed) => "changed",
            Err(refusal) => refusal.code().1,
        });
        let outcome = match outcome? {
            Outcome::Recorded => FeedbackOutcome::Recorded,
            Outcome::Repeated => FeedbackOutcome::Repeated,
            Outcome::Changed => FeedbackOutcome::Changed,
        };
        Ok(Response::new(GiveFeedbackReply { outcome: outcome.into() }))
    }
}
