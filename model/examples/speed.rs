//! scratch
use larder_model::*;
#[global_allocator]
static A: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    s.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
        + std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|t| std::fs::read_to_string(t.unwrap().path().join("schedstat")).ok())
            .map(|s| s.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9)
            .sum::<f64>()
        - s.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}
fn main() {
    let home = std::env::var("HOME").unwrap();
    for threads in [1, 2] {
        for mb in [128, 256, 512, 1024, 2048] {
            let e = Encoder::load(&ModelConfig {
                encoder: format!("{home}/.cache/larder/models/minilm-l6").into(),
                threads,
                micro_batch_tokens: mb,
                ..Default::default()
            })
            .unwrap();
            print!("threads {threads} micro {mb}: ");
            for (b, len) in [(1, 12), (1, 16), (8, 32), (32, 32)] {
                let text = "order ".repeat(len - 2);
                let t = e.tokenize(&vec![text.as_str(); b]).unwrap();
                assert_eq!(t.total(), b * len);
                for _ in 0..5 {
                    e.encode(&t).unwrap();
                }
                let c = cpu();
                let mut v: Vec<f64> = (0..40)
                    .map(|_| {
                        let s = std::time::Instant::now();
                        e.encode(&t).unwrap();
                        s.elapsed().as_secs_f64()
                    })
                    .collect();
                v.sort_by(f64::total_cmp);
                print!(
                    " {b}x{len}: {:.0} texts/s (best {:.0}, per cpu-s {:.0})",
                    b as f64 / v[20],
                    b as f64 / v[0],
                    (40 * b) as f64 / (cpu() - c)
                );
            }
            let q: Vec<String> = std::fs::read_to_string("/work/shared/data/banking77/test.csv")
                .unwrap()
                .lines()
                .skip(1)
                .filter(|l| l.len() > 10)
                .take(500)
                .map(|l| l.to_string())
                .collect();
            let t = e.tokenize(&q.iter().map(|s| s.as_str()).collect::<Vec<_>>()).unwrap();
            let c = cpu();
            e.encode(&t).unwrap();
            println!(" bank77: {:.0} per cpu-s, {} tokens", 500.0 / (cpu() - c), t.total());
        }
    }
}
