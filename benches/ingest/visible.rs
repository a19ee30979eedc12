//! How long it takes until a generation that was built is what a node answers from: from handing its folder to the running node until a fetch over
//! gRPC shows a row of it. A reader asks for one row every millisecond meanwhile. Many users are hot, whose rows a swap carries over before it is seen.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use larder_benches::{ACCOUNT, Figures, NOW_MS, Outcome, TENANT, account_batch, account_view, median, name};
use larder_serve::v1::admin_client::AdminClient;
use larder_serve::v1::features_client::FeaturesClient;
use larder_serve::v1::{GetFeaturesRequest, PublishRequest};
use larder_store::{GenerationWriter, WriterLimits};
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::Channel;

use crate::desk::{Desk, connect, of_shop};

/// Rows made at a time.
const ROWS_AT_ONCE: usize = 8192;
/// Users who are hot, where there are so many, and how many of them are read at a time.
const HOT_USERS: usize = 100_000;
const READ_AT_ONCE: usize = 10_000;
const ASKED_EVERY: Duration = Duration::from_millis(1);
/// After so long the generation is given up.
const PATIENCE: Duration = Duration::from_secs(300);

/// Sets `publish_to_visible_ms`, of a generation of so many rows in so many rounds, and the same under other keys for a large one.
pub(crate) fn measure(desk: &Desk, rows: usize, rounds: usize, figures: &mut Figures) -> Outcome<()> {
    let mut generation = 0;
    for (key, rows, rounds) in [("publish", rows / 10, rounds), ("publish_large", rows * 10, rounds.min(3))] {
        let (mut visible, mut returned, mut mib) = (Vec::new(), Vec::new(), 0.0);
        for _ in 0..rounds {
            generation += 1;
            let folder = desk.folder().join(format!("built-{generation}"));
            build(&folder, rows, generation)?;
            let Published { visible_after, returned_after } = desk.wait(publish(desk, &folder, generation, rows))?;
            visible.push(visible_after.as_secs_f64() * 1e3);
            mib = bytes(&folder)? / f64::from(1 << 20);
            returned.push(returned_after.as_secs_f64() * 1e3);
            fs::remove_dir_all(&folder)?;
        }
        figures.set(format!("{key}_rows"), rows as f64);
        figures.set(format!("{key}_mib"), mib);
        figures.set(format!("{key}_to_visible_ms"), median(&mut visible));
        figures.set(format!("{key}_to_return_ms"), median(&mut returned));
    }
    Ok(())
}

fn build(folder: &Path, rows: usize, generation: u32) -> Outcome<()> {
    let limits = WriterLimits::default();
    let mut writer = GenerationWriter::create(folder, &account_view(), TENANT, generation, NOW_MS, limits)?;
    for start in (0..rows).step_by(ROWS_AT_ONCE) {
        writer.append(&account_batch(start..rows.min(start + ROWS_AT_ONCE), generation)?)?;
    }
    writer.finish()?;
    Ok(())
}

/// Bytes of a built generation.
fn bytes(folder: &Path) -> Outcome<f64> {
    let mut bytes = 0;
    for file in fs::read_dir(folder)? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes as f64)
}

struct Published {
    visible_after: Duration,
    /// When the call that published it came back.
    returned_after: Duration,
}

/// Hands a generation over, and asks until it is seen.
async fn publish(desk: &Desk, folder: &Path, generation: u32, rows: usize) -> Outcome<Published> {
    let (reader, mut admin) = (connect(desk.address()).await?, AdminClient::new(connect(desk.address()).await?));
    make_hot(reader.clone(), rows).await?;
    let request = of_shop(PublishRequest { path: folder.to_string_lossy().into_owned() });
    let began = Instant::now();
    let publishing = async {
        let reply = admin.publish(request).await?.into_inner();
        match reply.live_generation == generation && reply.rows == rows as u64 && !reply.already_live {
            true => Ok(began.elapsed()),
            false => Err(format!("generation {generation} of {rows} rows was published: {reply:?}").into()),
        }
    };
    let seeing = async {
        seen(reader, generation, began + PATIENCE).await?;
        Ok(began.elapsed())
    };
    let (returned, visible) = tokio::join!(publishing, seeing);
    let returned: Outcome<Duration> = returned;
    let visible: Outcome<Duration> = visible;
    Ok(Published { returned_after: returned?, visible_after: visible? })
}

/// Reads users, whose rows so become hot.
async fn make_hot(channel: Channel, rows: usize) -> Outcome<()> {
    let mut features = FeaturesClient::new(channel);
    let users: Vec<String> = (0..rows.min(HOT_USERS)).map(name).collect();
    for entities in users.chunks(READ_AT_ONCE) {
        features.get_features(of_shop(points_of(entities.to_vec()))).await?;
    }
    Ok(())
}

fn points_of(entities: Vec<String>) -> GetFeaturesRequest {
    GetFeaturesRequest { features: vec![format!("{ACCOUNT}:points")], service: String::new(), entities }
}

/// Asks for one row until it is of the generation.
async fn seen(channel: Channel, generation: u32, until: Instant) -> Outcome<()> {
    let mut features = FeaturesClient::new(channel);
    let mut ticks = interval(ASKED_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while Instant::now() < until {
        ticks.tick().await;
        let reply = features.get_features(of_shop(points_of(vec![name(0)]))).await?.into_inner();
        if reply.views.first().and_then(|view| view.generation.first()) == Some(&generation) {
            return Ok(());
        }
    }
    Err(format!("generation {generation} was not seen within {} s", PATIENCE.as_secs()).into())
}
