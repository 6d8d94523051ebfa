//! Where the API server is, and who asks: the flags that every kubectl command has.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// How long one request may take. A list of tens of thousands of runs takes some seconds.
const REQUEST: Duration = Duration::from_secs(30);

/// As kubectl has them.
#[derive(Clone, Debug, Default, Args)]
pub struct Connection {
    /// Namespace; by default that of the context.
    #[arg(short, long)]
    pub namespace: Option<String>,

    /// Name of the context of the kubeconfig; by default the current one.
    #[arg(long)]
    pub context: Option<String>,

    /// The kubeconfig file; by default KUBECONFIG, then ~/.kube/config, then the account of the pod.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

impl Connection {
    /// Connects. Returns the namespace meant, too.
    pub async fn connect(&self) -> anyhow::Result<(Client, String)> {
        let Self { namespace, context, kubeconfig } = self;
        let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
        let mut config = match kubeconfig {
            Some(file) => {
                let read = Kubeconfig::read_from(file).with_context(|| file.display().to_string())?;
                Config::from_custom_kubeconfig(read, &options)
                    .await
                    .with_context(|| file.display().to_string())?
            }
            None if context.is_some() => {
                Config::from_kubeconfig(&options).await.context("the kubeconfig cannot be used")?
            }
            None => Config::infer()
                .await
                .context("no API server is known: give --kubeconfig, or set KUBECONFIG")?,
        };
        config.connect_timeout = Some(Duration::from_secs(10));
        config.read_timeout = Some(REQUEST);
        config.write_timeout = Some(REQUEST);
        let namespace = namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).context("no client can be made from the kubeconfig")?;
        Ok((client, namespace))
    }
}

/// Waits for an answer of the API server.
pub fn wait<T>(answer: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime can be started")?;
    runtime.block_on(answer)
}
