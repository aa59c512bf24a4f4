//! `completions` and `man`: what is made of the definitions of the commands themselves, so that it cannot differ from them.

use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::shells;
use clap_mangen::Man;

use super::output::{fail, print, refuse};
use super::{Args, DONE, ManArgs, Shell};

/// Prints completions.
pub(super) fn completions(shell: Shell) -> u8 {
    print(&completion_script(shell))
}

fn completion_script(shell: Shell) -> String {
    let mut command = Args::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    match shell {
        Shell::Bash => clap_complete::generate(shells::Bash, &mut command, name, &mut script),
        Shell::Zsh => clap_complete::generate(shells::Zsh, &mut command, name, &mut script),
        Shell::Fish => clap_complete::generate(shells::Fish, &mut command, name, &mut script),
    }
    String::from_utf8_lossy(&script).into_owned()
}

/// Prints one page, or writes all of them.
pub(super) fn man(args: &ManArgs) -> u8 {
    if let Some(directory) = &args.out {
        return match pages(directory) {
            Ok(()) => DONE,
            Err(error) => fail(&format!("writing manual pages to {}: {error}", directory.display())),
        };
    }
    match page(&args.command) {
        Ok(text) => print(&text),
        Err(text) => refuse(&[text]),
    }
}

fn pages(directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Args::command(), directory)
}

fn page(path: &[String]) -> Result<String, String> {
    let mut command = Args::command();
    // Gives the commands their full names, and the flags that they all have.
    command.build();
    let mut found = &command;
    for name in path {
        found = found.find_subcommand(name).ok_or_else(|| {
            let known: Vec<_> = found.get_subcommands().map(clap::Command::get_name).collect();
            match known.as_slice() {
                [] => format!("there is no command `{name}` below `{}`", found.get_name()),
                known => format!("there is no command `{name}`: known are {}", known.join(", ")),
            }
        })?;
    }
    let mut text = Vec::new();
    let title = found.get_bin_name().unwrap_or_default().replace(' ', "-");
    let rendered = Man::new(found.clone()).title(title).render(&mut text);
    // Writing to memory cannot fail.
    rendered.map(|()| String::from_utf8_lossy(&text).into_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    /// Every command with the names that lead to it, the program's own left out.
    fn all() -> Vec<(Vec<String>, Command)> {
        fn below(path: &[String], command: &Command, found: &mut Vec<(Vec<String>, Command)>) {
            found.push((path.to_vec(), command.clone()));
            for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
                below(&[path, &[command.get_name().to_owned()]].concat(), command, found);
            }
        }
        let mut command = Args::command();
        command.build();
        let mut found = Vec::new();
        below(&[], &command, &mut found);
        assert!(found.iter().any(|(path, _)| path.join(" ") == "catalog filter"));
        found
    }

    fn flags(command: &Command) -> Vec<String> {
        command.get_arguments().filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect()
    }

    #[test]
    fn completions_name_every_command_and_every_flag() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completion_script(shell);
            for (path, command) in all() {
                assert!(path.iter().all(|name| script.contains(name)), "{shell:?}: {path:?}");
                for flag in flags(&command) {
                    // Fish writes `-l flag`.
                    let other = format!("-l {}", flag.trim_start_matches('-'));
                    assert!(script.contains(&flag) || script.contains(&other), "{shell:?}: {path:?} {flag}");
                }
            }
        }
    }

    #[test]
    fn every_command_has_a_page_that_names_its_flags_and_is_written_to_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        pages(folder.path()).unwrap();
        for (path, command) in all() {
            // Hyphens are escaped.
            let text = page(&path).unwrap().replace("\\-", "-");
            assert!(flags(&command).iter().all(|flag| text.contains(flag)), "{path:?}: {text}");
            assert!(text.contains("Example"), "{path:?}: {text}");
            let file = [&["imageset-mirror".to_owned()], path.as_slice()].concat().join("-") + ".1";
            assert!(folder.path().join(&file).exists(), "{file}");
        }
        let error = page(&["mirrors".to_owned()]).unwrap_err();
        assert!(error.contains("there is no command `mirrors`") && error.contains("mirror, plan"), "{error}");
        let error = page(&["mirror".to_owned(), "more".to_owned()]).unwrap_err();
        assert_eq!(error, "there is no command `more` below `mirror`");
    }

    #[test]
    fn the_help_of_each_command_fits_a_screen_and_has_an_example() {
        for (path, command) in all() {
            let mut command = command.term_width(100);
            let help = command.render_help().to_string();
            let (lines, widest) = (help.lines().count(), help.lines().map(|line| line.chars().count()).max());
            assert!(lines <= 40, "{path:?} has {lines} lines:\n{help}");
            assert!(widest <= Some(100), "{path:?}: {widest:?}\n{help}");
            assert!(help.contains("Example"), "{path:?}: {help}");
            let below = command.get_after_help().unwrap().to_string();
            assert!(below.lines().all(|line| help.contains(line)), "an example is broken into lines: {help}");
            let line =
                help.lines().find(|line| line.starts_with("  imageset-mirror ") || line.contains("<(imageset-mirror "));
            assert!(path.is_empty() || line.is_some_and(|line| line.contains(&path.join(" "))), "{path:?}: {help}");
        }
    }

    #[test]
    fn examples_are_commands_that_are_understood() {
        use clap::Parser as _;
        let mut examples = 0;
        for (path, command) in all() {
            let help = command.get_after_help().unwrap().to_string();
            for line in help.lines().filter(|line| line.starts_with("  ")) {
                let start = line.find("imageset-mirror ").or_else(|| line.find("imagesetmirror "));
                let example = &line[start.unwrap()..];
                let words = example.split([' ', ')']).take_while(|word| !["|", ">", "#", ""].contains(word));
                let parsed = Args::try_parse_from(words);
                assert!(parsed.is_ok(), "{path:?}: {example}: {parsed:?}");
                examples += 1;
            }
        }
        assert!(examples > 15, "{examples}");
    }
}
