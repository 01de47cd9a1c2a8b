//! Columns for people: as Go's tabwriter sets them for Docker, so that scripts find what they look for where it was.

/// The least width of a column, spaces between included.
const LEAST_WIDTH: usize = 10;
/// Spaces between columns.
const PADDING: usize = 3;

/// Lays out lines whose cells are separated by tabs. The last cell of a line is as long as it is.
pub(crate) fn lay_out(lines: &[String]) -> String {
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        let ended = row.len().saturating_sub(1);
        for (column, cell) in row.iter().take(ended).enumerate() {
            let width = (cell.chars().count() + PADDING).max(LEAST_WIDTH);
            match widths.get_mut(column) {
                Some(known) => *known = (*known).max(width),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                let width = widths.get(column).copied().unwrap_or(0);
                text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
        }
        text.push('\n');
    }
    text
}

/// Shortens to so many characters, the last of which shows it.
pub(crate) fn ellipsis(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// The identifier without its algorithm, in twelve digits.
pub(crate) fn short_id(id: &str) -> &str {
    let digits = id.split_once(':').map_or(id, |(_, digits)| digits);
    digits.get(..12).unwrap_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_three_spaces_apart_and_at_least_ten_wide() {
        let lines = ["ID\tNAME\tSTATE", "0123456789ab\tx\tup"].map(str::to_owned);
        assert_eq!(lay_out(&lines), "ID             NAME      STATE\n0123456789ab   x         up\n");
        assert_eq!(lay_out(&["alone".to_owned()]), "alone\n");
    }

    #[test]
    fn long_words_end_in_a_sign_and_identifiers_in_twelve_digits() {
        assert_eq!(ellipsis("sleep 1000", 20), "sleep 1000");
        assert_eq!(ellipsis("abcdefghijklmnopqrstuvwxyz", 20), "abcdefghijklmnopqrs…");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("short"), "short");
    }
}
