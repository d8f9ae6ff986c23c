//! The pages under docs/ whose commands are run: they must print what the page says.

use std::{fmt::Write, time::Duration};

use crate::support::{control_plane::ControlPlane, repository};

/// A fenced block of commands, and what the page says that they print.
pub struct Block {
    pub commands: String,
    pub output: Option<String>,
}

/// The blocks that are marked `sh`, each with the block marked `text` that follows it, if one does.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```").filter(|language| !language.is_empty()) else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match language {
            "sh" => blocks.push(Block { commands: body.join("\n"), output: None }),
            "text" => blocks.last_mut().expect("commands before their output").output = Some(body.join("\n")),
            _ => {}
        }
    }
    blocks
}

/// Runs a page's blocks in one shell, with `after` behind each, and compares what they print with what the page says.
///
/// A block whose output begins with `Error` must fail, and the others must not.
pub async fn run(page: &str, plane: &ControlPlane, env: &[(&str, &str)], after: impl Fn(&Block) -> &'static str) {
    let page = std::fs::read_to_string(repository(page)).expect("the page");
    let blocks = blocks(&page);
    assert!(blocks.len() >= 8 && blocks.iter().filter(|block| block.output.is_some()).count() >= 4);
    let mut script = String::from("exec 2>&1\n");
    for (index, block) in blocks.iter().enumerate() {
        write!(script, "{}\necho \"=== {index} $?\"\n", block.commands).expect("a text");
        script.push_str(after(block));
    }
    let mut shell = plane.shell();
    let folder = tempfile::tempdir().expect("a folder");
    shell
        .current_dir(folder.path())
        .arg("-c")
        .arg(&script)
        .envs(env.iter().copied())
        .stdin(std::process::Stdio::null());
    let output = tokio::time::timeout(Duration::from_mins(3), shell.output()).await;
    let output =
        String::from_utf8_lossy(&output.expect("the page takes too long").expect("bash runs").stdout).into_owned();
    let mut rest = output.as_str();
    for (index, Block { commands, output: expected }) in blocks.iter().enumerate() {
        let marker = format!("=== {index} ");
        let (said, after) = rest.split_once(&marker).unwrap_or_else(|| panic!("{commands}\nnever ended:\n{rest}"));
        let (code, after) = after.split_once('\n').unwrap_or((after, ""));
        rest = after;
        let refused = expected.as_ref().is_some_and(|text| text.starts_with("Error"));
        assert_eq!(code != "0", refused, "{commands}\nended with {code}:\n{said}");
        for line in expected.iter().flat_map(|text| text.lines()) {
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words(said).contains(&words(line)), "{commands}\nshould print {line:?}, and printed:\n{said}");
        }
    }
}
