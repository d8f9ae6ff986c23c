//! Text for people.

/// The text, cut at a character boundary so that it has at most `longest` bytes, with an ellipsis if it was cut.
#[must_use]
pub fn truncate(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let ellipsis = '…';
    let end =
        (0..=longest.saturating_sub(ellipsis.len_utf8())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}{ellipsis}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(truncate("short", 5), "short");
        assert_eq!(truncate("ääää", 7), "ää…");
        assert!(truncate(&"ä".repeat(900), 1024).len() <= 1024);
    }
}
