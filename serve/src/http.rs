//! The HTTP side: /metrics for Prometheus, /healthz and /readyz for whoever starts and stops nodes.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State as AxumState;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use larder_store::{ROW_AGE_BUCKETS, ROW_AGE_SECONDS};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;

use crate::life::State;
use crate::metrics;
use crate::node::Shared;

/// Upper bounds of the time histograms, in seconds: fine around the default deadline of 300 ms.
const SECONDS_BUCKETS: [f64; 16] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 5.0];
/// Upper bounds of the histograms of counts.
const COUNT_BUCKETS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0, 1_024.0];

/// How often the histograms' samples are folded.
const UPKEEP: Duration = Duration::from_secs(5);

/// The process has one recorder, however many nodes it runs.
static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Serves until `stopped` resolves.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let upkeep = tokio::spawn(upkeep());
    let router = Router::new()
        .route("/metrics", get(render_metrics))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .with_state(shared);
    let served = axum::serve(listener, router).with_graceful_shutdown(stopped).await;
    upkeep.abort();
    served
}

/// Folds what histograms have collected, whether or not anybody ever asks for /metrics: unfolded samples pile up.
async fn upkeep() {
    let Some(handle) = recorder() else { return };
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        handle.run_upkeep();
    }
}

/// Has everything recorded that is counted from now on.
pub(crate) fn install_recorder() {
    recorder();
}

/// Installs the recorder on first use. None where the program has one of its own: then /metrics is the program's business.
fn recorder() -> Option<&'static PrometheusHandle> {
    let install = || {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Full(ROW_AGE_SECONDS.to_owned()), &ROW_AGE_BUCKETS)
            })
            .and_then(|builder| {
                let name = Matcher::Full(metrics::ROWS_EVENT_FRESHNESS_SECONDS.to_owned());
                builder.set_buckets_for_metric(name, &metrics::EVENT_AGE_BUCKETS)
            })
            .and_then(|builder| builder.set_buckets(&COUNT_BUCKETS));
        let handle = builder.and_then(PrometheusBuilder::install_recorder);
        match handle {
            Ok(handle) => {
                metrics::describe();
                Some(handle)
            }
            Err(error) => {
                tracing::warn!(%error, "metrics are not recorded");
                None
            }
        }
    };
    RECORDER.get_or_init(install).as_ref()
}

async fn render_metrics(AxumState(shared): AxumState<Arc<Shared>>) -> Response {
    let Some(handle) = recorder() else {
        return (StatusCode::NOT_IMPLEMENTED, "this process records its metrics elsewhere\n").into_response();
    };
    metrics::observe_node(&shared);
    handle.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render()).into_response()
}

/// Alive: anything but a failed worker.
async fn healthy(AxumState(shared): AxumState<Arc<Shared>>) -> (StatusCode, &'static str) {
    report(shared.life.state(), |state| !matches!(state, State::Failed { .. }))
}

/// Ready: answering questions.
async fn ready(AxumState(shared): AxumState<Arc<Shared>>) -> (StatusCode, &'static str) {
    report(shared.life.state(), |state| state == State::Serving)
}

fn report(state: State, good: impl Fn(State) -> bool) -> (StatusCode, &'static str) {
    let status = if good(state) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, state.label())
}
