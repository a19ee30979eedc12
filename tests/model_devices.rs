//! Several devices share the work, give the vectors that the CPU gives, and one that fails is replaced without anybody noticing.
//!
//! No GPU is needed: rehearsed accelerators go a GPU's whole way (own thread, padded buckets, self-check, warm-up) on Burn's CPU backend.
//! Most tests run a network of two small layers with invented weights; the reference vectors need those of minilm-l6.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use larder_model::{
    DeviceState, DeviceStatus, Devices, Embeddings, Encoder, EncoderConfig, Flaw, FlawKind, ModelConfig, Rehearsal,
    Tokens,
};
use larder_serve::v1::GetNodeStatusRequest;
use larder_serve::v1::admin_client::AdminClient;
use serde_json::{Value, json};
use tonic::Request;

use crate::support::encoder_folder;
use crate::support::node::TestNode;
use crate::support::shop::{DEMO, Shop};

const HIDDEN: usize = 24;
const INNER: usize = 48;
const LAYERS: usize = 2;
const VOCABULARY: usize = 50;
const POSITIONS: usize = 40;

/// A model folder of a network so small that every bucket is warm in a moment.
fn tiny_folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "model_type": "bert", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
            "num_attention_heads": 3, "intermediate_size": INNER, "max_position_embeddings": POSITIONS,
            "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12
        });
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let words: serde_json::Map<String, Value> = (0..VOCABULARY).map(|id| (format!("w{id}"), json!(id))).collect();
        let tokenizer = json!({
            "version": "1.0", "added_tokens": [], "pre_tokenizer": { "type": "WhitespaceSplit" },
            "model": { "type": "WordLevel", "vocab": words, "unk_token": "w0" }
        });
        fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        fs::write(folder.path().join("model.safetensors"), tiny_weights()).unwrap();
        folder
    });
    folder.path()
}

/// A safetensors file: the length of its header, the header, the numbers.
fn tiny_weights() -> Vec<u8> {
    let mut shapes = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![POSITIONS, HIDDEN]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, HIDDEN]),
        ("embeddings.LayerNorm.weight".to_owned(), vec![HIDDEN]),
        ("embeddings.LayerNorm.bias".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        for (part, outputs, inputs) in [
            ("attention.self.query", HIDDEN, HIDDEN),
            ("attention.self.key", HIDDEN, HIDDEN),
            ("attention.self.value", HIDDEN, HIDDEN),
            ("attention.output.dense", HIDDEN, HIDDEN),
            ("intermediate.dense", INNER, HIDDEN),
            ("output.dense", HIDDEN, INNER),
        ] {
            shapes.push((format!("encoder.layer.{layer}.{part}.weight"), vec![outputs, inputs]));
            shapes.push((format!("encoder.layer.{layer}.{part}.bias"), vec![outputs]));
        }
        for part in ["attention.output.LayerNorm", "output.LayerNorm"] {
            shapes.push((format!("encoder.layer.{layer}.{part}.weight"), vec![HIDDEN]));
            shapes.push((format!("encoder.layer.{layer}.{part}.bias"), vec![HIDDEN]));
        }
    }
    let (mut header, mut numbers, mut state) = (serde_json::Map::new(), Vec::new(), 1_u64);
    for (name, shape) in shapes {
        let start = numbers.len();
        for _ in 0..shape.iter().product() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5;
            numbers.extend(number.to_le_bytes());
        }
        header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, numbers.len()] }));
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &numbers].concat()
}

/// The small encoder on these devices; texts of up to 40 tokens, which fall into buckets of 16, 32 and 64.
fn tiny(devices: Vec<Rehearsal>) -> (Encoder, Devices) {
    tiny_with(&ModelConfig { threads: 1, device_failures: 1, ..ModelConfig::default() }, devices)
}

fn tiny_with(config: &ModelConfig, devices: Vec<Rehearsal>) -> (Encoder, Devices) {
    let devices = Devices::rehearse(config, devices).unwrap();
    let config = EncoderConfig { folder: tiny_folder().to_owned(), max_tokens: POSITIONS, ..EncoderConfig::default() };
    (Encoder::load(&config, &devices).unwrap(), devices)
}

fn cpu() -> Rehearsal {
    Rehearsal::Cpu { threads: 1, flaw: None }
}

fn accelerator() -> Rehearsal {
    Rehearsal::Accelerator { flaw: None }
}

fn flawed(kind: FlawKind, after_jobs: usize) -> Option<Flaw> {
    Some(Flaw { after_jobs, kind })
}

/// Texts of 1 to 40 tokens in no order, more than one batch of an accelerator.
fn tokens(encoder: &Encoder) -> Tokens {
    let text = |number: usize| {
        let words = (0..1 + number * 29 % POSITIONS).map(|place| format!("w{}", (number * 7 + place * 5) % VOCABULARY));
        words.collect::<Vec<_>>().join(" ")
    };
    let texts: Vec<String> = (0..75).map(text).collect();
    encoder.tokenize(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
}

fn assert_close(found: &Embeddings, expected: &Embeddings, bound: f32) {
    assert_eq!(found.len(), expected.len());
    let difference = found.data.iter().zip(&expected.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference <= bound, "{difference}");
}

/// What the CPU alone says; every other device must say the same.
fn expected() -> &'static Embeddings {
    static EXPECTED: OnceLock<Embeddings> = OnceLock::new();
    EXPECTED.get_or_init(|| {
        let (encoder, _) = tiny(vec![cpu()]);
        encoder.encode(&tokens(&encoder)).unwrap()
    })
}

fn state(devices: &Devices) -> Vec<DeviceState> {
    devices.states().iter().map(|device| device.state).collect()
}

#[test]
fn padded_buckets_give_the_packed_vectors() {
    let (encoder, devices) = tiny(vec![accelerator()]);
    assert_eq!(state(&devices), [DeviceState::Ready, DeviceState::Standby], "{:?}", devices.states());
    let tokens = tokens(&encoder);
    assert_close(&encoder.encode(&tokens).unwrap(), expected(), 1e-5);
    let texts = |device: usize| devices.states()[device].texts;
    assert_eq!((texts(0), texts(1)), (tokens.len() as u64, 0), "the accelerator did it");
    assert!(devices.states()[0].tokens_per_s > 0.0);
    assert!(encoder.encode(&Tokens::default()).unwrap().is_empty());
}

#[test]
fn a_text_is_the_same_in_every_bucket() {
    let (encoder, _) = tiny(vec![accelerator()]);
    let words = "w1 w2 w3 w4 w5";
    let alone = encoder.encode_texts(&[words]).unwrap();
    let long = ["w9"; POSITIONS].join(" ");
    for others in [1, 3, 4, 15, 31, 40] {
        let texts: Vec<&str> = std::iter::once(words).chain(std::iter::repeat_n(long.as_str(), others)).collect();
        let together = encoder.encode_texts(&texts).unwrap();
        assert_close(&together.select(&[0]), &alone, 1e-6);
    }
}

#[test]
fn the_padded_network_equals_the_reference() {
    let config = ModelConfig { threads: 1, ..ModelConfig::default() };
    let devices = Devices::rehearse(&config, vec![accelerator()]).unwrap();
    let config = EncoderConfig { folder: encoder_folder(), max_tokens: 32, ..EncoderConfig::default() };
    let encoder = Encoder::load(&config, &devices).unwrap();
    assert_eq!(devices.states()[0].state, DeviceState::Ready, "{:?}", devices.states());
    let golden: Value = serde_json::from_str(include_str!("golden/minilm-l6.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap().iter();
    let cases: Vec<&Value> = cases.filter(|case| case["ids"].as_array().unwrap().len() <= 32).collect();
    assert!(!cases.is_empty());
    let texts: Vec<&str> = cases.iter().map(|case| case["text"].as_str().unwrap()).collect();
    let found = encoder.encode_texts(&texts).unwrap();
    for (row, case) in cases.iter().enumerate() {
        let values = case["embedding"].as_array().unwrap().iter();
        let expected =
            Embeddings { dimension: 384, data: values.map(|value| value.as_f64().unwrap() as f32).collect() };
        assert_close(&found.select(&[row]), &expected, 1e-4);
    }
    assert_eq!(devices.states()[1].texts, 0, "nothing of it came from the CPU's own network");
}

#[test]
fn two_cpus_work_at_once() {
    let (encoder, devices) = tiny(vec![cpu(), cpu()]);
    assert_eq!(devices.parallel_jobs(), 2);
    let tokens = tokens(&encoder);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..20).for_each(|_| assert_close(&encoder.encode(&tokens).unwrap(), expected(), 0.0)));
        }
    });
    let texts: Vec<u64> = devices.states().iter().map(|device| device.texts).collect();
    assert_eq!(texts.iter().sum::<u64>(), 40 * tokens.len() as u64);
    assert!(texts.iter().all(|texts| *texts > 0), "{texts:?}");
}

/// Encodes until the flaw has struck and after it; every answer must be right. What a device says may pass, what it does not say is final.
fn takes_over(devices: Vec<Rehearsal>, kind: FlawKind, says: &str) -> Vec<DeviceStatus> {
    let (encoder, devices) = tiny(devices);
    let tokens = tokens(&encoder);
    assert_eq!(devices.states()[0].state, DeviceState::Ready);
    for _ in 0..4 {
        assert_close(&encoder.encode(&tokens).unwrap(), expected(), 1e-5);
    }
    let states = devices.states();
    let gone = if kind == FlawKind::Error { DeviceState::Resting } else { DeviceState::Broken };
    assert_eq!(states[0].state, gone, "{states:?}");
    assert!(states[0].reason.contains(says), "{states:?}");
    assert!(states[0].texts <= tokens.len() as u64, "such a device is not used again: {states:?}");
    states
}

const FLAWS: [(FlawKind, &str); 4] = [
    (FlawKind::Panic, "a rehearsed panic"),
    (FlawKind::Error, "a rehearsed error"),
    (FlawKind::NotANumber, "not unit vectors"),
    (FlawKind::NotUnit, "not unit vectors"),
];

#[test]
fn the_cpu_takes_over_from_a_broken_accelerator_though_it_is_not_listed() {
    for (kind, says) in FLAWS {
        let states = takes_over(vec![Rehearsal::Accelerator { flaw: flawed(kind, 1) }], kind, says);
        assert_eq!((states[1].name.as_str(), states[1].state), ("cpu", DeviceState::Standby), "{kind:?}");
        assert!(states[1].texts > 0);
    }
}

#[test]
fn another_listed_device_takes_over_from_a_broken_cpu() {
    for (kind, says) in FLAWS {
        let states = takes_over(vec![Rehearsal::Cpu { threads: 1, flaw: flawed(kind, 0) }, cpu()], kind, says);
        assert_eq!(states[1].state, DeviceState::Ready, "{kind:?}");
    }
}

#[test]
fn a_device_that_computes_garbage_is_broken_from_the_start() {
    let (encoder, devices) = tiny(vec![Rehearsal::Accelerator { flaw: flawed(FlawKind::Garbage, 0) }, accelerator()]);
    let states = devices.states();
    assert_eq!((states[0].state, states[1].state), (DeviceState::Broken, DeviceState::Ready), "{states:?}");
    assert!(
        states[0].reason.contains("bucket 1x16") && states[0].reason.contains("differs from the CPU's"),
        "{states:?}"
    );
    assert_close(&encoder.encode(&tokens(&encoder)).unwrap(), expected(), 1e-5);
    assert_eq!(devices.states()[0].texts, 0);
}

#[test]
fn a_job_that_fails_everywhere_leaves_the_cpu_in_its_place() {
    let (encoder, devices) = tiny(vec![
        Rehearsal::Accelerator { flaw: flawed(FlawKind::Error, 0) },
        Rehearsal::Cpu { threads: 1, flaw: flawed(FlawKind::Error, 0) },
    ]);
    let tokens = tokens(&encoder);
    for _ in 0..2 {
        let error = encoder.encode(&tokens).unwrap_err().to_string();
        assert!(error.contains("a rehearsed error"), "{error}");
    }
    assert_eq!(state(&devices), [DeviceState::Resting, DeviceState::Ready]);
    let (encoder, _) = tiny(vec![Rehearsal::Cpu { threads: 1, flaw: flawed(FlawKind::Panic, 0) }]);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| encoder.encode(&tokens)));
    assert_eq!(
        panic.unwrap_err().downcast_ref::<&str>(),
        Some(&"a rehearsed panic"),
        "a failed node, not a wrong answer"
    );
}

/// Looks until the first device is in that state.
fn wait_for(devices: &Devices, wanted: DeviceState) -> DeviceStatus {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let device = devices.states().swap_remove(0);
        if device.state == wanted {
            return device;
        }
        assert!(Instant::now() < until, "{device:?} is never {wanted:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_device_that_rests_comes_back_through_its_self_check() {
    for device in [accelerator(), cpu()] {
        let config = ModelConfig { threads: 1, device_failures: 3, device_rest_ms: 50, ..ModelConfig::default() };
        let (encoder, devices) = tiny_with(&config, vec![device, cpu()]);
        let tokens = tokens(&encoder);
        assert_close(&encoder.encode(&tokens).unwrap(), expected(), 1e-5);
        devices.set_failure_rate(1.0, 7);
        assert!(encoder.encode(&tokens).is_err(), "on every device");
        // The second device is a CPU and blamed for nothing; an accelerator is, and a CPU beside one that answers.
        devices.set_failure_rate(0.5, 7);
        let until = Instant::now() + Duration::from_secs(60);
        while devices.states()[0].state == DeviceState::Ready {
            // Where both fail the job, so does the call.
            if let Ok(found) = encoder.encode(&tokens) {
                assert_close(&found, expected(), 1e-5);
            }
            assert!(Instant::now() < until, "{:?}", devices.states());
        }
        devices.set_failure_rate(1.0, 7);
        let resting = wait_for(&devices, DeviceState::Resting);
        assert!(resting.reason.contains("on purpose") && resting.failures >= 3, "{resting:?}");
        devices.set_failure_rate(0.0, 0);
        let well = wait_for(&devices, DeviceState::Ready);
        assert_eq!((well.failures, well.reason.as_str(), well.retry_in), (0, "", Duration::ZERO));
        assert!(devices.injected_failures() >= 3);
        // Jobs go to it again: not all of them to the other, faster as that may be, when many come at once.
        let before = devices.states()[0].texts;
        let until = Instant::now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    while devices.states()[0].texts == before {
                        assert_close(&encoder.encode(&tokens).unwrap(), expected(), 1e-5);
                        assert!(Instant::now() < until, "{:?}", devices.states());
                    }
                });
            }
        });
    }
}

/// Questions asked of a node whose device breaks sooner or later.
const QUESTIONS: usize = 4000;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_answers_on_when_a_device_breaks() {
    let shop = Shop::new(&[DEMO]);
    let mut node = TestNode::bind(&shop).await;
    let devices = vec![Rehearsal::Cpu { threads: 1, flaw: flawed(FlawKind::Panic, 8) }, cpu()];
    node.node.warm_on(move |config| Devices::rehearse(config, devices)).await.unwrap();
    let mut admin = AdminClient::new(node.channel.clone());
    let mut asked = 0;
    let devices = loop {
        // Four at a time, so that both scorers have something to do.
        let ask = || node.ask(DEMO, "user-1", "I forgot my password");
        let (one, two, three, four) = tokio::join!(ask(), ask(), ask(), ask());
        for reply in [one, two, three, four] {
            assert_eq!(reply.unwrap().intent, "reset_password", "after {asked} questions");
        }
        asked += 4;
        let status = admin.get_node_status(Request::new(GetNodeStatusRequest {})).await.unwrap().into_inner();
        assert_eq!(status.state, "serving");
        if status.devices[0].state == "broken" {
            break status.devices;
        }
        assert!(asked < QUESTIONS, "{:?}", status.devices);
    };
    assert!(devices[0].reason.contains("a rehearsed panic") && devices[0].texts > 0, "{devices:?}");
    assert!(devices[1].state == "ready" && devices[1].tokens_per_s > 0.0, "{devices:?}");
    let page = node.http_get("/metrics").await;
    for figure in [
        "larder_model_device_state{device=\"cpu:0\",state=\"broken\"} 1",
        "larder_model_device_failures_total{device=\"cpu:0\",kind=\"panicked\"} ",
    ] {
        assert!(page.contains(figure), "{figure} is not on {page}");
    }
    assert_eq!(node.ask(DEMO, "user-1", "I forgot my password").await.unwrap().intent, "reset_password");
    node.node.drain().await.unwrap();
}

#[test]
fn foreign_tokens_are_the_callers_fault() {
    let (encoder, devices) = tiny(vec![accelerator()]);
    let long = EncoderConfig { folder: encoder_folder(), ..EncoderConfig::default() };
    let other = Encoder::load(&long, &Devices::open(&ModelConfig::default()).unwrap()).unwrap();
    let foreign = other.tokenize(&["where is my order?"]).unwrap();
    assert!(encoder.encode(&foreign).unwrap_err().to_string().contains("another encoder"));
    assert_eq!(state(&devices), [DeviceState::Ready, DeviceState::Standby]);
}

#[test]
fn several_encoders_share_the_devices() {
    let (encoder, devices) = tiny(vec![accelerator()]);
    let config = EncoderConfig { folder: tiny_folder().to_owned(), max_tokens: 16, ..EncoderConfig::default() };
    let second = Encoder::load(&config, &devices).unwrap();
    drop(encoder);
    let found = second.encode_texts(&["w1 w2 w3"]).unwrap();
    let (alone, _) = tiny(vec![cpu()]);
    assert_close(&found, &alone.encode_texts(&["w1 w2 w3"]).unwrap(), 1e-5);
    assert_eq!(devices.states()[0].texts, 1);
}
