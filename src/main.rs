//! The operator's binary: crypto provider, arguments, dispatch.

use std::process::ExitCode;

use clap::Parser;
use dcr_operator::{
    api,
    cli::{Cli, Command},
    policy,
    run::run,
};

#[tokio::main]
async fn main() -> ExitCode {
    // One provider for Kubernetes and for the authorization servers, before the first TLS connection.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("another crypto provider is installed already");
        return ExitCode::FAILURE;
    }
    let Cli { command, run: args } = Cli::parse();
    match command {
        None => run(args).await,
        Some(Command::Run(args)) => run(args).await,
        Some(Command::Crds) => print_yaml(&api::crds()),
        Some(Command::AdmissionPolicy) => print_yaml(&[policy::admission::policy()]),
    }
}

fn print_yaml<T: serde::Serialize>(documents: &[T]) -> ExitCode {
    for document in documents {
        match serde_saphyr::to_string(document) {
            Ok(yaml) => print!("---\n{yaml}"),
            Err(error) => {
                eprintln!("can't write YAML: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
