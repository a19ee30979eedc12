//! Everything a serving node answers with: store, model, tenants, admission, queue. Opened once, then shared.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_model::{Devices, ModelConfig};
use larder_store::Store;
use tokio::sync::oneshot;

use crate::admission::Admission;
use crate::assemble::AnswerPlan;
use crate::config::NodeConfig;
use crate::context::RequestContext;
use crate::cost::CostModel;
use crate::encoders::{Encoders, LoadedEncoder};
use crate::error::{Error, Refusal};
use crate::metrics::Counters;
use crate::question::{Admitted, Answer, Question};
use crate::queue::Queue;
use crate::rung::Rung;
use crate::tenant::Tenant;

/// Questions of the warm-up, from short to long, as often as it takes for the cost model to settle.
const WARM_UP_TEXTS: [&str; 3] = [
    "where is it?",
    "I would like to know when the parcel with my order will be here",
    "Hello, I ordered something last week and have not heard anything since, could you please look up what happened to it \
     and tell me whether I can still change the delivery address, because I am moving house at the end of the month?",
];
const WARM_UP_ROUNDS: usize = 4;

#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) store: Store,
    pub(crate) devices: Devices,
    /// Every encoder of the node, once.
    pub(crate) encoders: Vec<LoadedEncoder>,
    pub(crate) plan: AnswerPlan,
    pub(crate) queue: Arc<Queue>,
    pub(crate) cost: CostModel,
    pub(crate) admission: Admission,
    pub(crate) counters: Arc<Counters>,
    tenants: HashMap<String, Arc<Tenant>>,
    /// Half the default deadline: time that most questions have.
    ordinary_deadline: Duration,
}

impl Engine {
    /// Opens the store and, by `open_devices`, the devices, loads the model and the tenants, and runs the model until it is warm. Takes
    /// seconds, and minutes where a GPU has to compile.
    pub(crate) fn open(
        config: &NodeConfig,
        open_devices: impl FnOnce(&ModelConfig) -> Result<Devices, larder_model::Error>,
        counters: Arc<Counters>,
    ) -> Result<Engine, Error> {
        if config.tenants.is_empty() {
            return Err(Error::NoTenant);
        }
        let store = Store::open(&config.store, &config.views)?;
        let devices =
            open_devices(&config.model).map_err(|source| Error::Model { context: "the devices".to_owned(), source })?;
        let mut encoders = Encoders::on(&devices);
        let plan = AnswerPlan::compile(&store, config)?;
        let mut tenants = HashMap::new();
        for tenant in &config.tenants {
            let loaded = Tenant::load(tenant, config, &plan, &mut encoders)?;
            tracing::info!(tenant = tenant.name, intents = loaded.catalogue.intents.len(), "tenant loaded");
            tenants.insert(tenant.name.clone(), Arc::new(loaded));
        }
        // Only now: a device may have failed the check of an encoder.
        let scorers = devices.parallel_jobs();
        let engine = Engine {
            store,
            devices,
            encoders: encoders.into_loaded(),
            plan,
            queue: Arc::new(Queue::new(config.batcher.clone(), scorers)),
            cost: CostModel::new(),
            admission: Admission::new(config.admission.clone(), scorers),
            counters,
            tenants,
            ordinary_deadline: config.node.default_deadline() / 2,
        };
        engine.warm_up().map_err(|source| Error::Model { context: "warming the encoders".to_owned(), source })?;
        Ok(engine)
    }

    /// Runs every encoder on questions of several lengths, so that the first customer pays for no page fault and the cost
    /// model knows this machine.
    fn warm_up(&self) -> Result<(), larder_model::Error> {
        for LoadedEncoder { encoder, rungs, .. } in &self.encoders {
            for round in 0..WARM_UP_ROUNDS {
                for text in WARM_UP_TEXTS {
                    let tokens = encoder.tokenize(&[text])?;
                    let began = Instant::now();
                    encoder.encode(&tokens)?;
                    // The first round pays for what later ones find done.
                    if round > 0 && rungs.contains(&Rung::Full) {
                        self.cost.observe(CostModel::estimate_tokens(text, usize::MAX), began.elapsed());
                    }
                }
            }
        }
        Ok(())
    }

    /// A tenant that is served here.
    pub(crate) fn tenant(&self, name: &str) -> Result<&Arc<Tenant>, Refusal> {
        let unknown = || Refusal::UnknownTenant(format!("tenant \"{name}\" is not served here"));
        self.tenants.get(name).ok_or_else(unknown)
    }

    /// Lets a question in, or refuses it at once. The answer arrives on the receiver; a dropped sender means that the
    /// question was lost on the way.
    pub(crate) fn admit(
        &self,
        context: RequestContext,
        question: Question,
    ) -> Result<oneshot::Receiver<Result<Answer, Refusal>>, Refusal> {
        let arrived = Instant::now();
        let tenant = self.tenant(&context.tenant)?.clone();
        let estimated_tokens = CostModel::estimate_tokens(&question.text, tenant.full.max_tokens);
        let remaining = question.deadline.saturating_duration_since(arrived);
        let permit = self.admission.admit(self.cost.predict(estimated_tokens), remaining).inspect_err(|_| {
            if self.admission.backlog().questions == 0 && remaining >= self.ordinary_deadline {
                self.cost.doubt();
            }
        })?;
        let (reply, receiver) = oneshot::channel();
        let admitted = Admitted { question, context, tenant, arrived, estimated_tokens, permit, reply };
        match self.queue.push(admitted) {
            Ok(()) => Ok(receiver),
            // Between the state check and here the node began to drain.
            Err(_returned) => Err(Refusal::Unavailable { state: "draining", retry_after: Duration::from_secs(1) }),
        }
    }
}
