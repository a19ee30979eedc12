//! Everything a serving node answers with: store, model, tenants, admission, queue. Opened once, then shared.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use larder_model::{Devices, ModelConfig};
use larder_store::{Store, TenantId};
use tokio::sync::oneshot;

use crate::answer_cache::AnswerCache;
use crate::assemble::AnswerPlan;
use crate::config::NodeConfig;
use crate::context::RequestContext;
use crate::cost::CostModel;
use crate::encoders::{Encoders, LoadedEncoder};
use crate::error::{Error, Refusal};
use crate::feedback::Keeper;
use crate::metrics::Counters;
use crate::question::{Admitted, Answer, Question};
use crate::queue::{Place, Queue};
use crate::rung::Rung;
use crate::schedule::Schedule;
use crate::schedule::admission::Admission;
use crate::schedule::config::RungsConfig;
use crate::schedule::line::Entry;
use crate::schedule::price::{Cost, Price};
use crate::tenant::{Ranker, Tenant};
use crate::threads::ThreadCores;

/// Questions of the warm-up, from short to long.
const WARM_UP_TEXTS: [&str; 3] = [
    "where is it?",
    "I would like to know when the parcel with my order will be here",
    "Hello, I ordered something last week and have not heard anything since, could you please look up what happened to it \
     and tell me whether I can still change the delivery address, because I am moving house at the end of the month?",
];
/// Questions in its batches, from which the cost model learns what a batch takes and what a token more takes.
const WARM_UP_BATCHES: [usize; 4] = [1, 2, 4, 8];
/// How often they run; the first time pays for what later ones find done.
const WARM_UP_ROUNDS: usize = 3;

#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) store: Store,
    pub(crate) devices: Devices,
    /// Every encoder of the node, once.
    pub(crate) encoders: Vec<LoadedEncoder>,
    pub(crate) plan: AnswerPlan,
    /// Score threads.
    pub(crate) scorers: usize,
    pub(crate) queue: Arc<Queue>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) rungs: RungsConfig,
    pub(crate) answers: AnswerCache,
    pub(crate) cores: ThreadCores,
    /// Keeps answers for feedback; not set where none are kept.
    pub(crate) keeper: OnceLock<Keeper>,
    tenants: HashMap<String, Arc<Tenant>>,
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
        let encoders = encoders.into_loaded();
        // What is at hand keeps no scorer busy.
        let of_scorer = |loaded: &LoadedEncoder| (!loaded.encoder.is_table()).then(|| loaded.cost.clone());
        let costs = encoders.iter().map(of_scorer).collect();
        let engine = Engine {
            store,
            devices,
            queue: Arc::new(Queue::new(schedule(config, scorers), costs)),
            encoders,
            plan,
            scorers,
            counters,
            rungs: config.rungs.clone(),
            answers: AnswerCache::new(config.rungs.cache_bytes()),
            cores: ThreadCores::of(config)?,
            keeper: OnceLock::new(),
            tenants,
        };
        engine.warm_up().map_err(|source| Error::Model { context: "warming the encoders".to_owned(), source })?;
        Ok(engine)
    }

    /// Runs every encoder on batches of several sizes, and the search of the largest catalogue that it serves, so that the first customer
    /// pays for no page fault and the cost model knows this machine.
    fn warm_up(&self) -> Result<(), larder_model::Error> {
        for LoadedEncoder { encoder, cost, .. } in &self.encoders {
            let rankers = self.tenants.values().flat_map(|tenant| Rung::ALL.map(|rung| tenant.ranker(rung))).flatten();
            let rankers = rankers.filter(|ranker| ranker.encoder.name() == encoder.name());
            let index = rankers.map(|ranker| &ranker.index).max_by_key(|index| index.memory_bytes());
            let mut texts = WARM_UP_TEXTS.into_iter().cycle();
            for (round, size) in (0..WARM_UP_ROUNDS).flat_map(|round| WARM_UP_BATCHES.map(|size| (round, size))) {
                let texts: Vec<&str> = texts.by_ref().take(size).collect();
                let tokens = encoder.tokenize(&texts)?;
                let began = Instant::now();
                let vectors = encoder.encode(&tokens)?;
                index.map(|index| index.best_cosines(&vectors)).transpose()?;
                if round > 0 {
                    let estimate = |text: &&str| CostModel::estimate_tokens(text, usize::MAX);
                    cost.observe(texts.iter().map(estimate).sum(), began.elapsed());
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

    /// Lets a question in, or refuses it at once. The answer arrives on the receiver as long as the place is held; a dropped sender means that
    /// the question was lost on the way.
    pub(crate) fn admit(
        &self,
        context: RequestContext,
        question: Question,
    ) -> Result<(Place, oneshot::Receiver<Result<Answer, Refusal>>), Refusal> {
        let arrived = Instant::now();
        let tenant = self.tenant(&context.tenant)?.clone();
        let estimated_tokens = CostModel::estimate_tokens(&question.text, tenant.full.max_tokens);
        let cost = |ranker: &Ranker| {
            let tokens = estimated_tokens.min(ranker.max_tokens);
            let (base, marginal) = (ranker.cost.base(), ranker.cost.marginal(tokens));
            let cost = Cost { encoder: ranker.number, tokens, base, marginal, at_hand: ranker.encoder.is_table() };
            (!ranker.breaker.is_open(arrived)).then_some(cost)
        };
        let scores = self.answers.lookup(&tenant, Rung::Full, &question.text);
        let price =
            Price { full: cost(&tenant.full), light: tenant.light.as_ref().and_then(cost), cached: scores.is_some() };
        let entry =
            Entry { class: context.class, tenant: context.tenant_id, arrived, deadline: question.deadline, price };
        let (reply, receiver) = oneshot::channel();
        let admitted =
            |permit| Admitted { question, context, tenant, arrived, estimated_tokens, scores, permit, reply };
        Ok((self.queue.enter(entry, arrived, admitted)?, receiver))
    }
}

/// Empty, as larder.toml wants it.
pub(crate) fn schedule(config: &NodeConfig, scorers: usize) -> Schedule<Admitted> {
    let limited = config.tenants.iter().filter(|tenant| tenant.max_per_s > 0);
    let allowances = limited.map(|tenant| {
        let burst = if tenant.burst == 0 { tenant.max_per_s } else { tenant.burst };
        (TenantId(tenant.id), f64::from(tenant.max_per_s), f64::from(burst))
    });
    let ordinary = config.node.default_deadline() / 2;
    let admission = Admission::new(config.admission.clone(), scorers, ordinary, allowances, Instant::now());
    Schedule::new(admission, config.batcher.clone(), config.rungs.clone(), scorers)
}
