//! Writes the man pages and the completions of each program: `cargo run --example manual -- target` (`just manual`).
//!
//! A page is its frame in docs/man/, whose lines `@NAME@` are filled in: the options and commands from those of the
//! program, the settings and the exit codes from docs/reference.md. So no flag and no setting is described twice.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality};
use argh_complete::Generator;
use argh_complete::fish::Fish;
use argh_complete::zsh::Zsh;
use rollcall::cli::{ArgsInfo, program_of};
use rollcall::{admin, board, client, listener, server};

type Options = fn() -> CommandInfoWithArgs;

/// Name, section of the manual, the word for it in docs/reference.md, and its options.
pub const PROGRAMS: [(&str, u8, &str, Options); 5] = [
    ("rollcall-server", 8, "server", server::Options::get_args_info),
    ("rollcall-board", 8, "board", board::Options::get_args_info),
    ("rollcall-admin", 8, "admin", admin::Options::get_args_info),
    ("rollcall-client", 1, "client", client::Options::get_args_info),
    ("rollcall-listen", 1, "listener", listener::Options::get_args_info),
];

fn main() -> io::Result<()> {
    write_to(Path::new(&std::env::args_os().nth(1).expect("the folder to write into")))
}

pub fn write_to(target: &Path) -> io::Result<()> {
    let write = |file: String, text: String| {
        let path = target.join(file);
        fs::create_dir_all(path.parent().expect("it has a folder"))?;
        fs::write(path, text)
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let reference = fs::read_to_string(root.join("docs/reference.md"))?;
    let script = fs::read_to_string(root.join("stack/install"))?.leak();
    let programs = PROGRAMS.map(|(program, section, word, options)| (program, section, word, options()));
    for (program, section, word, options) in
        programs.into_iter().chain([("rollcall-setup", 8, "stack/*", options_of_script(script))])
    {
        let page = format!("{program}.{section}");
        let frame = fs::read_to_string(root.join(format!("docs/man/{page}.in")))?;
        write(format!("man/{page}"), filled(&frame, program, word, &options, &reference))?;
        write(format!("completions/bash/{program}"), for_bash(program, &options))?;
        let zsh = Zsh::generate(program, &options);
        write(format!("completions/zsh/_{program}"), program_of(&zsh).into_owned())?;
        // argh_complete 0.1.19 writes an option that fish has from 4.0 on; the older one does the same.
        let fish = Fish::generate(program, &options).replace("commandline -xpc", "commandline -opc");
        write(format!("completions/fish/{program}.fish"), program_of(&fish).into_owned())?;
    }
    Ok(())
}

/// The options of a script stand in the comment at its top, which is its `--help`.
fn options_of_script(script: &'static str) -> CommandInfoWithArgs {
    let help = FlagInfo { long: "--help", description: "display usage information", ..Default::default() };
    let comment = script.lines().skip(1).map_while(|line| line.strip_prefix('#'));
    let mut flags = vec![help];
    for line in comment.filter(|line| line.starts_with("   ")) {
        match line.trim().split_once("  ").filter(|(flag, _)| flag.starts_with("--")) {
            Some((flag, description)) => {
                let (long, value) = flag.split_once(' ').unwrap_or((flag, ""));
                let kind = match value {
                    "" => FlagInfoKind::Switch,
                    arg_name => FlagInfoKind::Option { arg_name },
                };
                let description = description.trim();
                flags.push(FlagInfo {
                    long,
                    kind,
                    description,
                    optionality: Optionality::Optional,
                    ..Default::default()
                });
            }
            None => {
                let last = flags.last_mut().expect("there is --help");
                last.description = format!("{} {}", last.description, line.trim()).leak();
            }
        }
    }
    CommandInfoWithArgs { flags: flags.leak(), ..Default::default() }
}

/// argh_complete's own takes `ca renew` for `renew`: it looks at the last word alone.
fn for_bash(program: &str, options: &CommandInfoWithArgs) -> String {
    let mut cases = String::new();
    add_cases(&mut cases, program, options);
    let function = program.replace('-', "_");
    format!(
        r#"_{function}() {{
    local word command={program} words='' last=${{COMP_WORDS[COMP_CWORD-1]}}
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case " $(_{function}_words "$command") " in *" $word "*) [[ $word = -* ]] || command+=" $word" ;; esac
    done
    words=$(_{function}_words "$command")
    # The value of an option is a file, if anything.
    [[ " $words " != *" $last= "* ]] || words=
    COMPREPLY=($(compgen -W "${{words//=/}}" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
_{function}_words() {{
    case $1 in
{cases}    esac
}}
complete -F _{function} -o bashdefault -o default {program}
"#
    )
}

/// One line for each command: its flags, with `=` behind those that take a value, and the commands below it.
fn add_cases(cases: &mut String, command: &str, options: &CommandInfoWithArgs) {
    let flags = shown(options).map(|flag| match flag.kind {
        FlagInfoKind::Switch => flag.long.to_owned(),
        FlagInfoKind::Option { .. } => format!("{}=", flag.long),
    });
    let words: Vec<String> =
        flags.chain(options.commands.iter().map(|below| below.name.to_owned())).collect();
    let _ = writeln!(cases, "        '{command}') echo '{}' ;;", words.join(" "));
    for below in &options.commands {
        add_cases(cases, &format!("{command} {}", below.name), &below.command);
    }
}

fn filled(frame: &str, program: &str, word: &str, options: &CommandInfoWithArgs, reference: &str) -> String {
    let mut page = String::new();
    for line in frame.lines() {
        match line {
            "@SYNOPSIS@" => page += &synopsis(program, options),
            "@OPTIONS@" => {
                page += &items(options, true);
                // A script has none.
                if program != "rollcall-setup" {
                    item(&mut page, r"\fB\-\-version\fR", "print the version");
                }
            }
            "@COMMANDS@" => commands(&mut page, "", options),
            "@EXIT STATUS@" => {
                for [code, meaning] in table(reference, "## Exit codes") {
                    if let Some(meaning) = of_program(meaning, program) {
                        item(&mut page, &bold(code), &meaning);
                    }
                }
            }
            "@ENVIRONMENT@" => {
                for [variable, default, readers, meaning] in table(reference, "## Settings") {
                    if readers.split([',', ' ', '`']).any(|reader| reader == word || reader == program) {
                        // That which a recipe sets, and where, is no business of the program.
                        let default = default.split("; ").filter(|clause| !clause.contains("`just"));
                        let default =
                            default.collect::<Vec<_>>().join("; ").replace(" in the repository", "");
                        item(&mut page, &inline(variable), &format!("{meaning}. Default: {default}"));
                    }
                }
            }
            _ => page += &(line.replace("@VERSION@", env!("CARGO_PKG_VERSION")) + "\n"),
        }
    }
    page
}

/// `[--flag value] argument`, as `--help` has it.
fn synopsis(command: &str, options: &CommandInfoWithArgs) -> String {
    let mut line = bold(command);
    for flag in shown(options).filter(|flag| flag.long != "--help") {
        let many = if flag.optionality == Optionality::Repeating { " ..." } else { "" };
        let _ = match flag.optionality {
            Optionality::Required => write!(line, " {}", of_flag(flag)),
            _ => write!(line, " [{}{many}]", of_flag(flag)),
        };
    }
    if !options.commands.is_empty() {
        line += r" [\fIcommand\fR]";
    }
    for argument in options.positionals.iter().filter(|argument| !argument.hidden) {
        let name = format!(r"\fI{}\fR", text(argument.name));
        let _ = match argument.optionality {
            Optionality::Required => write!(line, " {name}"),
            Optionality::Optional => write!(line, " [{name}]"),
            Optionality::Repeating | Optionality::Greedy => write!(line, " [{name} ...]"),
        };
    }
    line + "\n"
}

/// Each command and those below it, with their options.
fn commands(page: &mut String, above: &str, options: &CommandInfoWithArgs) {
    for command in &options.commands {
        let name = format!("{above}{}", command.name);
        let _ = write!(page, ".SS {}\n{}.P\n", text(&name), synopsis(&name, &command.command));
        *page += &(inline(command.command.description) + "\n");
        *page += &items(&command.command, false);
        commands(page, &format!("{name} "), &command.command);
    }
}

/// The arguments and flags with their descriptions. Each program's own page has `--help` once.
fn items(options: &CommandInfoWithArgs, is_program: bool) -> String {
    let mut page = String::new();
    for argument in options.positionals.iter().filter(|argument| !argument.description.is_empty()) {
        item(&mut page, &format!(r"\fI{}\fR", text(argument.name)), argument.description);
    }
    for flag in shown(options).filter(|flag| is_program || flag.long != "--help") {
        item(&mut page, &of_flag(flag), flag.description);
    }
    page
}

fn shown<'a>(options: &'a CommandInfoWithArgs) -> impl Iterator<Item = &'a FlagInfo<'a>> {
    options.flags.iter().filter(|flag| !flag.hidden)
}

fn of_flag(flag: &FlagInfo) -> String {
    match flag.kind {
        FlagInfoKind::Switch => bold(flag.long),
        FlagInfoKind::Option { arg_name } => format!(r"{}\~\fI{}\fR", bold(flag.long), text(arg_name)),
    }
}

fn item(page: &mut String, name: &str, meaning: &str) {
    let _ = write!(page, ".TP\n{name}\n{}\n", inline(meaning));
}

/// The rows of the table below a heading of a document.
fn table<'a, const N: usize>(document: &'a str, heading: &str) -> impl Iterator<Item = [&'a str; N]> {
    let (_, below) = document.split_once(&format!("\n{heading}\n")).expect("the document has this heading");
    let rows = below.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    rows.take_while(|line| line.starts_with('|')).map(|row| {
        let cells: Vec<&str> = row.trim_matches(['|', ' ']).split(" | ").collect();
        cells.try_into().unwrap_or_else(|cells| panic!("{N} columns: {cells:?}"))
    })
}

/// The clauses of an exit code that are about this program: those about one alone begin with `for` and its name.
fn of_program(meaning: &str, program: &str) -> Option<String> {
    let meaning = program_of(meaning);
    let clauses = meaning.split("; ").filter(|clause| {
        let one = clause.strip_prefix("for `").or(clause.strip_prefix("also for `"));
        one.is_none_or(|one| one.starts_with(program))
    });
    Some(clauses.collect::<Vec<_>>().join("; ")).filter(|clauses| !clauses.is_empty())
}

/// Text of a document or of an option: the words in backticks are bold, and a recipe is its program.
fn inline(markdown: &str) -> String {
    let here = program_of(markdown).replace("\\|", "|");
    let parts = here.split('`').enumerate();
    parts.map(|(i, part)| if i % 2 == 1 { bold(part) } else { text(part) }).collect()
}

fn bold(words: &str) -> String {
    format!(r"\fB{}\fR", text(words))
}

/// As roff(7) wants it: a hyphen that can be copied, no line that is a request, and ASCII.
fn text(words: &str) -> String {
    let mut roff = String::from(if words.starts_with(['.', '\'']) { "\\&" } else { "" });
    for character in words.chars() {
        match character {
            '\\' => roff += "\\e",
            '-' => roff += "\\-",
            // A long URL may break there.
            '[' => roff += "\\:[",
            '\n' => roff.push(' '),
            _ if character.is_ascii() => roff.push(character),
            _ => {
                let _ = write!(roff, "\\[u{:04X}]", u32::from(character));
            }
        }
    }
    roff
}
