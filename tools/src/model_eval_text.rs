//! An evaluation as tables for people: the figures, how far the confidence can be believed, and every intent.

use crate::model_eval::{LeftOut, Measured};
use crate::output::{bold, say, table};
use crate::progress::count;

/// Prints everything about one encoder.
pub(crate) fn say_measured(measured: &Measured) {
    say!("{} ({})", bold(&measured.encoder), measured.folder.display());
    say!("{}", figures(measured));
    say!("{}", reliability(measured));
    say!("{}", intents(measured));
}

fn figures(measured: &Measured) -> comfy_table::Table {
    let evaluation = &measured.evaluation;
    let mut rows = vec![
        ("questions", count(evaluation.questions as u64)),
        ("right intent first (top-1)", percent(evaluation.top_1)),
        ("right intent among three (top-3)", percent(evaluation.top_3)),
        ("right among the most confident 80 %", percent(evaluation.most_confident_80)),
        ("expected calibration error, 15 bins", format!("{:.3}", evaluation.ece)),
        ("AUROC of the confidence, right against wrong", optional(evaluation.auroc)),
        ("treated rightly, hand-overs included", percent(evaluation.accuracy)),
        ("handed over though in scope", percent(evaluation.handed_over)),
    ];
    if evaluation.out_of_scope_questions > 0 {
        rows.push(("handed over of what is out of scope", percent(evaluation.out_of_scope_handed_over)));
        rows.push(("AUROC of the confidence, in scope against out", optional(evaluation.out_of_scope_auroc)));
    }
    if let Some(features) = &measured.features {
        rows.push(("top-1 without features", percent(features.top_1_without)));
        rows.push(("top-1 with another user's features", percent(features.top_1_of_others)));
    }
    if let Some(first) = measured.left_out.first() {
        let mean = |figure: &dyn Fn(&LeftOut) -> f32| {
            measured.left_out.iter().map(figure).sum::<f32>() / measured.left_out.len() as f32
        };
        rows.push(("intents left out of further trainings", first.intents.len().to_string()));
        let auroc = |left_out: &LeftOut| left_out.auroc.unwrap_or_default();
        let drawn: Vec<String> = measured.left_out.iter().map(|left_out| format!("{:.3}", auroc(left_out))).collect();
        rows.push(("AUROC of the confidence, known against left out, mean", format!("{:.3}", mean(&auroc))));
        rows.push(("the same, draw by draw", drawn.join(", ")));
        rows.push(("handed over of the left out", percent(mean(&|left_out| left_out.handed_over))));
        rows.push(("handed over of the known", percent(mean(&|left_out| left_out.known_handed_over))));
    }
    rows.push(("time per text in batches of 32", format!("{:.0} us", measured.time.batched_us)));
    rows.push(("time of a text alone, median", format!("{:.0} us", measured.time.single_us)));
    if let Some(training) = &measured.training {
        rows.push(("training", format!("{:.0} s", training.seconds)));
    }
    table(["", ""], rows.into_iter().map(|(name, value)| [name.to_owned(), value]))
}

fn reliability(measured: &Measured) -> comfy_table::Table {
    let rows = measured
        .evaluation
        .reliability
        .iter()
        .map(|bin| [percent(bin.confidence), percent(bin.right), count(bin.questions as u64)]);
    table(["confidence", "right", "questions"], rows)
}

fn intents(measured: &Measured) -> comfy_table::Table {
    let rows = measured.evaluation.intents.iter().map(|intent| {
        let taken_for = intent.taken_for.as_ref();
        [
            intent.intent.clone(),
            count(intent.questions as u64),
            percent(intent.top_1),
            percent(intent.precision),
            taken_for.map(|(other, times)| format!("{other} ({times})")).unwrap_or_default(),
        ]
    });
    table(["intent", "questions", "top-1", "precision", "most often taken for"], rows)
}

fn percent(share: f32) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn optional(value: Option<f32>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}
