//! Flags and environment.

use std::{net::SocketAddr, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

/// A Kubernetes operator that registers OAuth clients by Dynamic Client Registration (RFC 7591, RFC 7592).
#[derive(Debug, Parser)]
#[command(name = "dcr-operator", version, about, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator (the default).
    Run(RunArgs),
    /// Print the three CustomResourceDefinitions as YAML.
    Crds,
    /// Print the ValidatingAdmissionPolicy as YAML.
    AdmissionPolicy,
}

/// How the operator runs. Every flag also comes from the environment.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Watch only these namespaces (comma-separated); all of them unless given.
    #[arg(long, env = "DCR_OPERATOR_NAMESPACES", value_delimiter = ',')]
    pub namespaces: Vec<String>,

    /// One active replica, elected by a Lease.
    #[arg(long, env = "DCR_OPERATOR_LEADER_ELECT", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub leader_elect: bool,

    /// Namespace of the Lease `dcr-operator`; the pod's own unless given, else `default`.
    #[arg(long, env = "DCR_OPERATOR_LEASE_NAMESPACE")]
    pub lease_namespace: Option<String>,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "DCR_OPERATOR_ADMIN_ADDRESS", default_value = "0.0.0.0:8080")]
    pub admin_address: SocketAddr,

    /// How many objects of a kind are looked at at the same time.
    #[arg(long, env = "DCR_OPERATOR_WORKERS", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    pub workers: u16,

    /// How long a server may hold up a deletion, such as 10m.
    #[arg(long, env = "DCR_OPERATOR_DELETION_TIMEOUT", default_value = "10m", value_parser = duration)]
    pub deletion_timeout: Duration,

    /// Accept http:// endpoints. For tests and demos: tokens and secrets would travel in clear.
    #[arg(long, env = "DCR_OPERATOR_ALLOW_INSECURE_HTTP", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub allow_insecure_http: bool,

    /// Keep a ValidatingAdmissionPolicyBinding for each namespace that has a DcrPolicy, so that forbidden OAuthClients are
    /// refused at apply.
    #[arg(long, env = "DCR_OPERATOR_ADMISSION_BINDINGS", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub admission_bindings: bool,

    /// `text` for people, `json` for machines.
    #[arg(long, env = "DCR_OPERATOR_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,

    /// error, warn, info, debug, trace or off; RUST_LOG filters such as info,dcr_operator::dcr=debug work too.
    #[arg(long, env = "DCR_OPERATOR_LOG_LEVEL", default_value = "info", value_parser = log_filter)]
    pub log_level: String,
}

impl RunArgs {
    /// The namespaces to watch; none = all, as with a variable that is set to nothing.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let names = self.namespaces.iter().map(|name| name.trim());
        names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Json,
    Text,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: kube::core::Duration =
        text.parse().map_err(|error| format!("{error}; write a duration such as 30s or 10m"))?;
    if parsed.is_negative() {
        return Err("a duration can't be negative".into());
    }
    Ok(parsed.into())
}

/// A lone word that is no level would be taken for a target, and silence everything else.
fn log_filter(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    for directive in text.split(',') {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
            return Err(format!(
                "{directive:?} has no level: write {}, or a filter such as info,dcr_operator::dcr=debug",
                LEVELS.join(", ")
            ));
        }
    }
    EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_is_the_default_command_and_takes_its_flags() {
        let cli = Cli::try_parse_from(["dcr-operator", "--workers", "4", "--allow-insecure-http"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!((cli.run.workers, cli.run.allow_insecure_http, cli.run.leader_elect), (4, true, true));
        let cli = Cli::try_parse_from(["dcr-operator", "run", "--leader-elect=false", "--namespaces", "a,b"]).unwrap();
        let Some(Command::Run(run)) = cli.command else { panic!("run") };
        assert!(!run.leader_elect);
        assert_eq!(run.namespaces, ["a", "b"]);
    }

    #[test]
    fn mistakes_are_refused_with_the_flag_and_the_way_out() {
        for (arguments, expected) in [
            (vec!["--deletion-timeout", "soon"], "write a duration such as 30s"),
            (vec!["--workers", "0"], "--workers"),
            (vec!["--admin-address", "8080"], "--admin-address"),
            (vec!["--log-level", "warning"], "write error, warn, info, debug, trace, off"),
            (vec!["--log-level", "info,dcr_operator::dcr"], "\"dcr_operator::dcr\" has no level"),
            (vec!["--log-level", ""], "has no level"),
        ] {
            let error = Cli::try_parse_from(std::iter::once("dcr-operator").chain(arguments)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_log_level_may_be_a_filter() {
        for level in ["warn", "INFO", "off", "info,dcr_operator::dcr=debug"] {
            let cli = Cli::try_parse_from(["dcr-operator", "--log-level", level]).unwrap();
            assert_eq!(cli.run.log_level, level);
        }
    }

    #[test]
    fn no_namespace_is_all_namespaces() {
        for (given, expected) in [("", vec![]), ("a,", vec!["a"]), ("a, b", vec!["a", "b"])] {
            let cli = Cli::try_parse_from(["dcr-operator", "--namespaces", given]).unwrap();
            assert_eq!(cli.run.namespaces(), expected, "{given:?}");
        }
    }
}
