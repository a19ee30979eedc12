//! The languages a sample shop may have, and what each brings: word lists, answer catalogue, questions, and the encoder that reads them.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{shop_words, shop_words_zh};

/// A language of a shop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// English.
    En,
    /// Chinese, in simplified characters.
    Zh,
}

/// What a language brings.
#[derive(Debug)]
pub(crate) struct Locale {
    pub(crate) first_names: &'static [&'static str],
    pub(crate) last_names: &'static [&'static str],
    /// Of a first and a last name.
    pub(crate) full_name: fn(&str, &str) -> String,
    pub(crate) cities: &'static [&'static str],
    /// Of the users, as their profiles have it.
    pub(crate) languages: &'static [&'static str],
    pub(crate) carriers: &'static [&'static str],
    /// With the price of one, in hundredths.
    pub(crate) items: &'static [(&'static str, u32)],
    /// The answer catalogue, TOML.
    pub(crate) catalogue: &'static str,
    /// The questions, TOML.
    pub(crate) questions: &'static str,
}

impl Language {
    pub(crate) fn locale(self) -> &'static Locale {
        match self {
            Language::En => &ENGLISH,
            Language::Zh => &CHINESE,
        }
    }
}

pub(crate) static ENGLISH: Locale = Locale {
    first_names: &shop_words::FIRST_NAMES,
    last_names: &shop_words::LAST_NAMES,
    full_name: |first, last| format!("{first} {last}"),
    cities: &shop_words::CITIES,
    languages: &shop_words::LANGUAGES,
    carriers: &shop_words::CARRIERS,
    items: &shop_words::ITEMS,
    catalogue: include_str!("../assets/catalogue.toml"),
    questions: include_str!("../assets/questions.toml"),
};

pub(crate) static CHINESE: Locale = Locale {
    first_names: &shop_words_zh::FIRST_NAMES,
    last_names: &shop_words_zh::LAST_NAMES,
    full_name: |first, last| format!("{last}{first}"),
    cities: &shop_words_zh::CITIES,
    languages: &shop_words_zh::LANGUAGES,
    carriers: &shop_words_zh::CARRIERS,
    items: &shop_words_zh::ITEMS,
    catalogue: include_str!("../assets/catalogue-zh.toml"),
    questions: include_str!("../assets/questions-zh.toml"),
};
