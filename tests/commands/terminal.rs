//! Terminals, wide and narrow, with colours and without, and pipes that nobody reads to their end.

use std::process::{Command, Stdio};

use regex::Regex;

use super::{Desk, PROGRAM, Ran, run};

impl Desk {
    /// Runs a command on a terminal of that many columns, with these variables; everything that is written comes out.
    async fn on_terminal(&self, args: &str, columns: u16, variables: &[(&str, &str)]) -> Ran {
        let [source, target] = [&self.source, &self.target].map(|registry| format!("--tls={}=plain", registry.host()));
        let to = format!("--to={}/ocp", self.target.host());
        let line = format!(
            "stty cols {columns} rows 24 && exec {PROGRAM} {args} -f set.yaml --authfile auth.json {to} {source} {target}"
        );
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).current_dir(self.folder.path());
        let path = std::env::var("PATH").unwrap();
        run(&mut command, &[variables, &[("PATH", &path), ("SHELL", "/bin/sh"), ("TERM", "xterm")]].concat()).await
    }

    /// An image that is there and one that is not.
    fn two(&self) {
        self.image("team/app-with-a-name-that-no-narrow-terminal-has-room-for", "v1", "one");
        let line = "  - name: SOURCE/team/app-with-a-name-that-no-narrow-terminal-has-room-for:v1\n";
        self.file(&format!("  additionalImages:\n{line}  - name: SOURCE/team/nothing:v1\n"));
    }
}

/// What starts the sequences that colour text.
const COLOUR: &str = "\u{1b}[3";

/// The lines of a bar, which are drawn over each other, without what moves the cursor.
fn drawn(text: &str) -> Vec<String> {
    let control = Regex::new("\u{1b}\\[[0-9;?]*[A-Za-z]").unwrap();
    let lines = text.split(['\r', '\n']).filter(|line| line.contains(" images, "));
    lines.map(|line| control.replace_all(line, "").into_owned()).collect()
}

#[tokio::test]
async fn a_bar_fits_its_terminal_however_narrow_that_is() {
    for columns in [200, 60] {
        let desk = Desk::new().await;
        desk.two();
        let ran = desk.on_terminal("mirror", columns, &[]).await;
        assert_eq!(ran.code, Some(1), "{ran:#?}");
        let bars = drawn(&ran.out);
        assert!(!bars.is_empty(), "{ran:#?}");
        for bar in bars {
            assert!(bar.chars().count() <= usize::from(columns), "{columns}: {bar:?}");
            assert!(bar.contains("/1 images, "), "{bar:?}");
        }
        assert!(ran.out.contains("2 images: 1 copied, 0 present, 1 failed"), "the result is below it: {ran:#?}");
    }
}

#[tokio::test]
async fn colours_are_for_terminals_that_want_them() {
    let desk = Desk::new().await;
    desk.two();
    let plan = "plan --log-level debug --log-format text -o mapping";
    let coloured = desk.on_terminal(plan, 100, &[]).await;
    assert!(coloured.out.contains(COLOUR), "{coloured:#?}");
    let plain = desk.on_terminal(plan, 100, &[("NO_COLOR", "1")]).await;
    assert!(plain.out.contains("DEBUG") && !plain.out.contains(COLOUR), "{plain:#?}");
    let piped = desk.run(&["plan", "--log-level", "debug", "-o", "mapping"]).await;
    assert!(piped.err.contains("DEBUG") && !piped.err.contains('\u{1b}'), "{piped:#?}");
}

#[tokio::test]
async fn without_a_terminal_each_image_has_a_line() {
    let desk = Desk::new().await;
    desk.two();
    let ran = desk.run(&["mirror"]).await;
    let lines: Vec<_> = ran.err.lines().filter(|line| line.contains("copied   ")).collect();
    assert_eq!(lines.len(), 1, "{ran:#?}");
    assert!(!ran.err.contains(['\r', '\u{1b}']), "{ran:#?}");
}

#[tokio::test]
async fn a_pipe_that_nobody_reads_to_its_end_is_no_failure() {
    let mut crd = Command::new(PROGRAM);
    crd.arg("crd").env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = crd.spawn().unwrap();
    // More than a pipe holds, so the rest of it has nowhere to go.
    drop(child.stdout.take());
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
}
