//! A section of docs/benchmarks.md that a program of its own measures: the others leave it as it is.

/// The document with this section in place of the one with this heading, or at its end.
pub fn replace(document: &str, heading: &str, section: &str) -> String {
    let Some((start, end)) = find(document, heading) else { return format!("{document}\n{section}") };
    format!("{}{section}{}", &document[..start], &document[end..])
}

/// The section of this heading, as far as there is one.
pub fn read<'a>(document: &'a str, heading: &str) -> Option<&'a str> {
    find(document, heading).map(|(start, end)| &document[start..end])
}

fn find(document: &str, heading: &str) -> Option<(usize, usize)> {
    let start = document.find(heading)?;
    let body = start + heading.len();
    Some((start, document[body..].find("\n## ").map_or(document.len(), |at| body + at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADING: &str = "## A long run\n";

    #[test]
    fn a_section_replaces_the_one_of_the_last_run() {
        let new = "## A long run\n\nnew\n";
        let document = "# Title\n\n## A long run\n\nold\n\nolder\n\n## Next\n\ntext\n";
        let replaced = replace(document, HEADING, new);
        assert_eq!(replaced, "# Title\n\n## A long run\n\nnew\n\n## Next\n\ntext\n");
        assert_eq!(read(&replaced, HEADING), Some(new));
        assert_eq!(replace(&replaced, HEADING, new), replaced);
        assert_eq!(read("# Title\n", HEADING), None);
        assert_eq!(replace("# Title\n", HEADING, new), "# Title\n\n## A long run\n\nnew\n");
    }
}
