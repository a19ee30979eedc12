//! scratch
use larder_model::*;
use std::path::Path;
fn main() {
    let t = std::time::Instant::now();
    let home = std::env::var("HOME").unwrap();
    let encoder = Encoder::load(&ModelConfig {
        encoder: format!("{home}/.cache/larder/models/minilm-l6").into(),
        ..Default::default()
    })
    .unwrap();
    let catalogue = Catalogue::load(Path::new("/work/main/tools/assets/catalogue.toml")).unwrap();
    let oh = |v: &[&str]| Encoding::OneHot(v.iter().map(|s| s.to_string()).collect());
    let f = |n: &str, e| EncodedFeature { feature: n.into(), encoding: e };
    let features = FeatureEncoder::new(vec![
        f("profile:tier", oh(&["basic", "silver", "gold"])),
        f("profile:loyalty_points", Encoding::Log),
        f("profile:store_credit", Encoding::Log),
        f("profile:is_business", Encoding::Flag),
        f("orders:total", Encoding::Log),
        f("orders:status", oh(&["processing", "in_transit", "out_for_delivery", "delayed", "delivered", "cancelled"])),
        f("orders:payment_status", oh(&["paid", "pending", "failed"])),
        f("orders:return_status", oh(&["none", "requested", "received", "refunded"])),
        f("orders:placed_at", Encoding::AgeDays(vec![1., 7., 30., 180.])),
        f("orders:delivered_at", Encoding::AgeDays(vec![1., 7., 30., 180.])),
    ])
    .unwrap();
    let index = CatalogueIndex::build(&encoder, &catalogue, &mut |_, _| {}).unwrap();
    eprintln!("index {:?}", t.elapsed());
    let train = LabelledQuestion::load(Path::new("/tmp/model-work/eval/train.jsonl")).unwrap();
    let mut test = LabelledQuestion::load(Path::new("/tmp/model-work/eval/test.jsonl")).unwrap();
    let kinds: Vec<String> = std::fs::read_to_string("/tmp/model-work/eval/test.jsonl")
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["kind"].as_str().unwrap().to_string())
        .collect();
    let mut o = TrainOptions::default();
    for a in std::env::args().skip(1) {
        let (k, v) = a.split_once('=').unwrap();
        match k {
            "lr" => o.learning_rate = v.parse().unwrap(),
            "p" => o.patience_steps = v.parse().unwrap(),
            "n" => o.max_steps = v.parse().unwrap(),
            "s" => o.weight_spreads = v.split(',').map(|x| x.parse().unwrap()).collect(),
            "seed" => o.seed = v.parse().unwrap(),
            "c" => o.wrong_answer_cost = v.parse().unwrap(),
            _ => panic!(),
        }
    }
    if std::env::var("DUMP").is_ok() {
        let w = |n: &str, v: &[f32]| {
            std::fs::write(
                format!("/tmp/model-work/eval/{n}.f32"),
                v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(),
            )
            .unwrap()
        };
        for (n, q) in [("train", &train), ("test", &test)] {
            let texts: Vec<&str> = q.iter().map(|q| q.text.as_str()).collect();
            let e = encoder.encode_texts(&texts).unwrap();
            w(&format!("{n}_emb"), &e.data);
            w(&format!("{n}_cos"), &index.best_cosines(&e).unwrap());
            let mut phi = vec![0.0; q.len() * features.width()];
            for (i, q) in q.iter().enumerate() {
                q.encode_features(&features, &mut phi[i * features.width()..][..features.width()]).unwrap();
            }
            w(&format!("{n}_phi"), &phi);
            let l: Vec<f32> =
                q.iter().map(|q| catalogue.position(&q.intent).unwrap_or(catalogue.intents.len()) as f32).collect();
            w(&format!("{n}_label"), &l);
        }
        let texts: Vec<&str> = catalogue.intents.iter().flat_map(|i| &i.examples).map(|s| s.as_str()).collect();
        w("cat_emb", &encoder.encode_texts(&texts).unwrap().data);
        let l: Vec<f32> =
            catalogue.intents.iter().enumerate().flat_map(|(k, i)| i.examples.iter().map(move |_| k as f32)).collect();
        w("cat_label", &l);
        return;
    }
    let t = std::time::Instant::now();
    let mut last = 0.0;
    let mut lastdone = 0;
    let (head, report) = Head::train(
        TrainRequest {
            encoder: &encoder,
            catalogue: &catalogue,
            index: &index,
            features: &features,
            questions: &train,
            options: &o,
        },
        &mut |p| {
            if p.stage == TrainStage::CrossValidation && p.done > lastdone + 1 {
                eprintln!("step {} loss {}", lastdone, last);
            }
            if p.stage == TrainStage::CrossValidation && p.done % 20 == 0 {
                eprintln!("   {} {}", p.done, p.held_out_loss)
            }
            last = p.held_out_loss;
            lastdone = p.done;
        },
    )
    .unwrap();
    eprintln!("trained in {:?}\n{report:#?}", t.elapsed());
    let texts: Vec<&str> = test.iter().map(|q| q.text.as_str()).collect();
    let cos = index.best_cosines(&encoder.encode_texts(&texts).unwrap()).unwrap();
    let mut phi = vec![0.0; test.len() * features.width()];
    for (i, q) in test.iter_mut().enumerate() {
        q.encode_features(&features, &mut phi[i * features.width()..][..features.width()]).unwrap();
    }
    for (name, h) in [("trained", &head), ("similarity", &Head::similarity_only(&catalogue, encoder.name(), &features))]
    {
        let r = h.rank(&cos, &phi).unwrap();
        for kind in ["plain", "ambiguous", "out_of_scope"] {
            let (mut n, mut right, mut ok) = (0, 0, 0);
            for i in 0..test.len() {
                if kinds[i] != kind {
                    continue;
                }
                n += 1;
                let oos = test[i].intent == "out_of_scope";
                let best = &catalogue.intents[r[i].best].name;
                let is = !oos && *best == test[i].intent;
                right += is as usize;
                let good = (is && !r[i].hand_over) || (oos && r[i].hand_over);
                ok += good as usize;
                if !good && name == "trained" && std::env::var("V").is_ok() {
                    println!(
                        "{kind}: {:?} want {} got {} {:.2} oos {:.2} ho {} cands {:?} {:?}",
                        test[i].text,
                        test[i].intent,
                        best,
                        r[i].confidence,
                        r[i].out_of_scope,
                        r[i].hand_over,
                        r[i].candidates
                            .iter()
                            .map(|c| format!(
                                "{} {:.2} cos {:.2}",
                                catalogue.intents[c.0].name,
                                c.1,
                                cos[i * catalogue.intents.len() + c.0]
                            ))
                            .collect::<Vec<_>>(),
                        catalogue.position(&test[i].intent).map(|p| cos[i * catalogue.intents.len() + p])
                    );
                }
            }
            println!("{name} {kind}: n {n} best-right {right} ok {ok} = {:.1} %", 100.0 * ok as f32 / n as f32);
        }
    }
}
