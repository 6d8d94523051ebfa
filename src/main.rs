//! The trainyard operator: parse, start telemetry, dispatch.

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use trainyard::{
    operator,
    settings::{Arguments, Command},
    telemetry::logging,
};

// The system's allocator keeps the peak of the first lists for ever.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match dispatch(Arguments::parse().into_command()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not through the log, whose filter or set-up may be what failed.
            let _ = writeln!(std::io::stderr(), "trainyard: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(settings) => {
            logging::init(settings.log_format, &settings.log_level)?;
            operator::run(settings).await.context("the operator has stopped")
        }
        Command::Crds => {
            let yaml = trainyard_api::crds::crds_yaml();
            std::io::stdout()
                .write_all(yaml.as_bytes())
                .context("cannot print the custom resource definitions")
        }
    }
}
