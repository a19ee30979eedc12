//! URLs as text: names behind one, and one without what may be a secret.

use reqwest::Url;

/// The URL with more names behind it.
pub(super) fn below<'a>(url: &Url, names: impl Iterator<Item = &'a str>) -> Url {
    let mut url = url.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(names);
    }
    url
}

/// A URL for messages: nothing of it that may be a secret, a user's password or what follows `?` and `#`.
pub fn without_secrets(text: &str) -> String {
    let end = text.find(['?', '#']).unwrap_or(text.len());
    match (text.find("://"), text[..end].rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}://…@{}", &text[..scheme], &text[at + 1..end]),
        _ => text[..end].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_may_be_a_secret_is_shown() {
        for (url, shown) in [
            ("s3://bucket/a b", "s3://bucket/a b"),
            ("https://ada:hunter2@host/a.parquet", "https://…@host/a.parquet"),
            ("https://ada:hun@ter2@host/a.parquet?sig=secret#more", "https://…@host/a.parquet"),
            ("https://host/a.parquet?sig=secret@host", "https://host/a.parquet"),
            ("--spill=s3://ada:hunter2@bucket", "--spill=s3://…@bucket"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }

    #[test]
    fn names_are_escaped_behind_a_url() {
        let url = Url::parse("s3://bucket/shop/").unwrap();
        assert_eq!(below(&url, "day=1/a b.parquet".split('/')).as_str(), "s3://bucket/shop/day=1/a%20b.parquet");
    }
}
