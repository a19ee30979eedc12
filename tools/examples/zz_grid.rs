//! Temporary: a grid of training settings.
use larder_model::*;
use larder_serve::NodeConfig;
use std::collections::BTreeMap;
fn main() {
    let mut cached: Option<(Encoder, CatalogueIndex)> = None;
    for seed in [42u64, 43, 44, 45] {
    let dir = std::path::Path::new("/tmp/t/big");
    let _ = std::fs::remove_dir_all(dir);
    larder::write_sample(&larder::SampleRequest{ out: dir.to_owned(), users: 100_000, seed, now_ms: 1_795_132_800_000, encoder: "/root/.cache/larder/models/minilm-l6".into()}).unwrap();
    let config = NodeConfig::load(&dir.join("larder.toml")).unwrap();
    let c = Catalogue::load(&dir.join("catalogue.toml")).unwrap();
    let (e, index) = cached.get_or_insert_with(|| { let e = Encoder::load(&config.model).unwrap(); let i = CatalogueIndex::build(&e, &c, &mut |_, _| {}).unwrap(); (e, i) });
    let q = LabelledQuestion::load(&dir.join("train.jsonl")).unwrap();
    let tests: Vec<larder::TestQuestion> = std::fs::read_to_string(dir.join("questions.jsonl")).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let texts: Vec<&str> = tests.iter().map(|t| t.question.text.as_str()).collect();
    let cos = index.best_cosines(&e.encode_texts(&texts).unwrap()).unwrap();
    let feats = config.service("answers").unwrap().encoded_features();
      for (pt, pv) in [(2,1),(4,1),(4,2)] {
       for cost in [0.5f32, 0.2, 0.0] {
        let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
        let ambiguous: std::collections::BTreeSet<String> = { let mut m: BTreeMap<String, std::collections::BTreeSet<String>> = BTreeMap::new(); for x in &q { m.entry(x.text.clone()).or_default().insert(x.intent.clone()); } m.into_iter().filter(|(_, s)| s.len() > 1).map(|(t, _)| t).collect() };
        let train: Vec<LabelledQuestion> = q.iter().filter(|x| { let n = seen.entry((x.text.clone(), x.intent.clone())).or_default(); *n += 1; *n <= if ambiguous.contains(&x.text) { pv } else { pt } }).cloned().collect();
        let f = FeatureEncoder::new(feats.clone()).unwrap();
        let t = std::time::Instant::now();
        let options = TrainOptions { wrong_answer_cost: cost, ..TrainOptions::default() };
        let (head, r) = Head::train(TrainRequest { encoder: e, catalogue: &c, index, features: &f, questions: &train, options: &options }, &mut |_| {}).unwrap();
        let w = f.width();
        let mut phi = vec![0.0; w * tests.len()];
        for (i, x) in tests.iter().enumerate() { x.question.encode_features(&f, &mut phi[i*w..][..w]).unwrap(); }
        let ranks = head.rank(&cos, &phi).unwrap();
        let mut k = BTreeMap::new();
        let mut first = 0;
        for (x, r) in tests.iter().zip(&ranks) {
            let ok = if x.question.intent == "out_of_scope" { r.hand_over } else { !r.hand_over && c.intents[r.best].name == x.question.intent };
            *k.entry(x.kind).or_insert(0) += ok as usize;
            first += (x.question.intent != "out_of_scope" && c.intents.get(r.best).is_some_and(|i| i.name == x.question.intent)) as usize;
        }
        println!("R seed {seed} pt {pt} pv {pv} cost {cost} n {} right {} {k:?} first {first} acc {:.3} thr {:.2} spread {} steps {} {:.0}s", train.len(), k.values().sum::<usize>(), r.accuracy, r.threshold, r.weight_spread, r.steps, t.elapsed().as_secs_f64());
       }
      }
    }
}
