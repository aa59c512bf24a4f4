//! Scripts for Argo CD, run by the interpreter and with the libraries that Argo CD gives them: a program of `e2e/tools/`.

use std::io::{Seek as _, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::tools::{self, Tool};

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Result(Value),
    Error(String),
}

/// Runs a script for each object: the table that it returns, or why there is none.
///
/// # Errors
/// When the interpreter cannot be built or started.
pub async fn run(script: &str, objects: &[Value]) -> Result<Vec<Result<Value, String>>> {
    let program = tokio::task::spawn_blocking(|| tools::ensure(Tool::Lua)).await??;
    let mut request = tempfile::tempfile()?;
    request.write_all(json!({"script": script, "objects": objects}).to_string().as_bytes())?;
    request.rewind()?;
    let output = Command::new(program).stdin(Stdio::from(request)).output().context("running lua")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    let answers: Vec<Answer> = serde_json::from_slice(&output.stdout).context("reading what lua prints")?;
    let result = |answer| match answer {
        Answer::Result(value) => Ok(value),
        Answer::Error(message) => Err(message),
    };
    Ok(answers.into_iter().map(result).collect())
}
