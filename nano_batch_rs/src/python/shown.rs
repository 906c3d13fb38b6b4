//! What a notebook cell shows of an object that ends it.

/// A table of names and counts for a notebook; the texts are the crate's own and need no escapes.
pub fn html_table(title: &str, rows: &[(&str, usize)]) -> String {
    let cells: String =
        rows.iter().map(|(name, count)| format!("<tr><td>{name}</td><td>{count}</td></tr>")).collect();
    format!("<table><caption>{title}</caption><tbody>{cells}</tbody></table>")
}
