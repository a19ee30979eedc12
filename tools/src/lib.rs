//! The `larder` command: everything behind the binary's thin main, one file per command.
//!
//! `cli` says which commands there are. Behind them: `ingest_load` builds Parquet files, `destination` is the node or the store they go to,
//! `shop*` invents the sample data, `load` puts a load on a node, `demo*` plays the whole of it, and the rest is what several commands
//! share. The public items are for tests of the sample and for benchmarks that need a load; a program that wants to embed Larder uses
//! the other crates.

mod cli;
mod panics;
mod completions;

mod serve;
mod ingest;
mod ingest_load;
mod generation_number;
mod rows;
mod row_lines;
mod stream;
mod place;
mod warm;
mod warm_run;
mod warm_outcome;
mod warm_keys;
mod warm_ranking;
mod warm_columns;
mod erase;
mod compact;
mod inspect;
mod inspect_store_text;
mod inspect_entity_text;
mod inspect_json;
mod verify;
mod backup;
mod restore;
mod backup_set;
mod backup_manifest;
mod cold_arguments;
mod delta_arguments;
mod durations;
mod destination;
mod busy;
mod live;

mod model_get;
mod known_models;
mod hub;
mod package;
mod nano_e5;
mod unigram_file;
mod model_train;
mod model_fine_tune;
mod model_publish;
mod model_eval;
mod model_eval_text;
mod labelled_csv;

mod sample;
mod sample_record;
mod sample_write;
mod sample_tenant;
mod shop;
mod shop_draw;
mod shop_activity;
mod shop_locale;
mod shop_words;
mod shop_words_zh;
mod shop_parquet;
mod shop_config;
mod shop_questions;
mod shop_askers;
mod shop_stream;

mod chaos;

mod ask;
mod submit;
mod answer;
mod settled;
mod feedback;
mod feedback_record;
mod feedback_export;
mod answer_text;
mod client;
mod node_address;

pub mod load;
mod plan;

mod demo;
mod demo_prepare;
mod demo_node;
mod demo_ask;
mod demo_figures;
mod demo_report;
mod bag_of_words;

mod files;
mod output;
mod progress;

pub use bag_of_words::{BagOfWords, Neighbour, longest_shared_run, words};
pub use cli::main;
#[doc(hidden)]
pub use panics::tell_of_panics;
pub use sample_record::{SampleRecord, SampleRequest};
pub use sample_write::write_sample;
pub use shop_locale::Language;
pub use shop_questions::{QuestionKind, TestQuestion};
