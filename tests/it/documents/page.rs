//! The documents as text: the lines to type in them, and how examples compare with output.

use std::collections::BTreeSet;
use std::fs;

use super::ROOT;

/// Those whose lines are run.
pub const PAGES: [&str; 7] = [
    "README.md",
    "docs/reference.md",
    "docs/operations.md",
    "docs/scale.md",
    "deploy/README.md",
    "deploy/container.md",
    "deploy/ha/README.md",
];

/// The first words of lines that somebody may type.
const PROGRAMS: [&str; 21] = [
    "apt-get",
    "cargo",
    "docker",
    "export",
    "install",
    "journalctl",
    "just",
    "pg_dump",
    "pgrep",
    "psql",
    "rm",
    "rollcall-admin",
    "rollcall-board",
    "rollcall-client",
    "rollcall-listen",
    "rollcall-server",
    "rollcall-setup",
    "sysctl",
    "systemctl",
    "systemd-analyze",
    "umask",
];

pub struct Page {
    pub name: &'static str,
    text: String,
}

pub struct Block {
    pub language: String,
    pub text: String,
}

impl Page {
    pub fn read(name: &'static str) -> Self {
        Self { name, text: fs::read_to_string(format!("{ROOT}/{name}")).unwrap() }
    }

    /// The fenced blocks, without the indentation of a list.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<(usize, Block)> = None;
        for line in self.text.lines() {
            let indent = line.len() - line.trim_start().len();
            match (line.trim_start().strip_prefix("```"), open.take()) {
                (Some(language), None) => {
                    open = Some((indent, Block { language: language.to_owned(), text: String::new() }));
                }
                (Some(_), Some((_, block))) => blocks.push(block),
                (None, Some((indent, mut block))) => {
                    block.text += line.get(indent..).unwrap_or("");
                    block.text.push('\n');
                    open = Some((indent, block));
                }
                (None, None) => {}
            }
        }
        blocks
    }

    /// Without the fenced blocks.
    pub fn prose(&self) -> String {
        let mut fenced = false;
        let outside = self.text.lines().filter(|line| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            !fence && !fenced
        });
        outside.collect::<Vec<_>>().join("\n")
    }

    /// The spans in backticks, on one line each.
    pub fn spans(&self) -> Vec<String> {
        let prose = self.prose();
        let spans = prose.split('`').skip(1).step_by(2);
        spans.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ").replace("\\|", "|")).collect()
    }

    /// Every line that somebody may type, each up to its comment; without the blocks with such a first line.
    pub fn lines(&self, without: &dyn Fn(&str) -> bool) -> BTreeSet<String> {
        let blocks = self.blocks().into_iter().filter(|block| block.language == "sh");
        let in_blocks = blocks.filter(|block| !without(block.first_line())).flat_map(|block| {
            match block.is_one_command() {
                true => vec![block.first_line().to_owned()],
                false => block.text.lines().map(without_comment).map(str::to_owned).collect(),
            }
        });
        in_blocks
            .filter(|line| !line.is_empty())
            .chain(self.spans().into_iter().filter(|span| is_command(span)))
            .collect()
    }
}

impl Block {
    /// Does one of its lines need the next?
    fn is_one_command(&self) -> bool {
        ["<<", "\\\n", "set -a"].iter().any(|part| self.text.contains(part))
    }

    fn first_line(&self) -> &str {
        without_comment(self.text.lines().next().unwrap_or(""))
    }
}

fn without_comment(line: &str) -> &str {
    line.split("  #").next().unwrap_or("").trim_end()
}

fn is_command(span: &str) -> bool {
    let mut words =
        span.split(' ').skip_while(|word| word.split_once('=').is_some_and(|(name, _)| is_variable(name)));
    let first = words.next().unwrap_or("");
    let known = PROGRAMS.contains(&first) || first.starts_with("stack/") || first == "certs/ca";
    span == "just" || known && words.next().is_some()
}

pub fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_' || byte.is_ascii_digit())
}

pub fn pages() -> Vec<Page> {
    PAGES.map(Page::read).into()
}

/// Is this line in a document?
#[track_caller]
pub fn documented(line: &str) {
    assert!(
        pages().iter().any(|page| page.lines(&|_| false).contains(line)),
        "no document has the line {line}"
    );
}

/// Is it, and does the typed line begin with the same words, up to one that stands for something?
#[track_caller]
pub fn documented_as(line: &str, typed: &str) {
    documented(line);
    let fixed = line.split(' ').take_while(|word| {
        let first = word.trim_start_matches("https://").as_bytes()[0];
        first != b'[' && !first.is_ascii_uppercase() && word.parse::<u16>().is_err()
    });
    let mut words = typed.split(' ');
    for word in fixed {
        assert!(words.any(|typed| typed == word), "{typed:?} is not what {line:?} says");
    }
}

/// The block that begins with this line.
#[track_caller]
pub fn block(first: &str) -> String {
    let mut blocks = pages().into_iter().flat_map(|page| page.blocks());
    let found = blocks.find(|block| block.first_line() == first);
    found.unwrap_or_else(|| panic!("no document has a block that begins with {first}")).text
}

/// Does the text hold the parts between the ellipses, in this order?
pub fn says(text: &str, parts: &str) -> bool {
    let mut rest = text;
    parts.split('…').all(|part| match rest.split_once(part.trim()) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

/// An example compares with output by this shape: numbers and ids are those of the day.
pub fn shape(text: &str) -> String {
    let is_id = |word: &str| word.len() >= 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut shape = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let word = &rest[..end];
        if word.is_empty() {
            shape.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        if is_id(word) {
            shape.push_str("ID");
        } else {
            for part in word.split_inclusive(|c: char| !c.is_ascii_digit()) {
                let letters = part.trim_start_matches(|c: char| c.is_ascii_digit());
                if letters.len() < part.len() {
                    shape.push('0');
                }
                shape.push_str(letters);
            }
        }
        rest = &rest[end..];
    }
    shape
}
