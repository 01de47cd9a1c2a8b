//! `capsid logs`.

use std::io;

use capsid_api::client::segment;
use clap::Args;

use crate::commands::Call;
use crate::failure::Failure;
use crate::present::times;
use crate::present::value::Value;
use crate::session::Wiring;
use crate::session::output::Output;

/// Flags and words of `logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArguments {
    /// Show extra details provided to logs
    #[arg(long)]
    details: bool,
    /// Follow log output
    #[arg(short, long)]
    follow: bool,
    /// Show logs since a moment (2013-01-02T13:23:37Z) or a length of time (42m)
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Show logs before a moment or a length of time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Lines from the end to show
    #[arg(short = 'n', long, default_value = "all", value_name = "NUMBER", allow_hyphen_values = true)]
    tail: String,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    container: String,
}

/// Prints what a container printed, each stream to its own.
pub(crate) async fn logs(arguments: &LogsArguments, call: &Call) -> Result<u8, Failure> {
    let moment = |text: &Option<String>, flag: &str| {
        let read = text.as_deref().map(times::moment).transpose();
        read.map_err(|reason| Failure::text(format!("invalid value for \"{flag}\": {reason}")))
    };
    let (since, until) = (moment(&arguments.since, "since")?, moment(&arguments.until, "until")?);
    let client = call.connect().await?;
    let document: Value = client
        .get(format!("/containers/{}/json", segment(&arguments.container)))
        .send()
        .await?
        .json()
        .await?;
    let request = client.get(format!("/containers/{}/logs", segment(document.get("Id").text())));
    let request = request.flag("stdout", true).flag("stderr", true).flag("follow", arguments.follow);
    let request = request.flag("timestamps", arguments.timestamps).flag("details", arguments.details);
    let request = request.query("tail", &arguments.tail).query_if("since", since).query_if("until", until);
    let wiring = Wiring {
        terminal: document.at(&["Config", "Tty"]).is_true(),
        stdin: false,
        stdout: true,
        stderr: true,
        detach_keys: Vec::new(),
    };
    match Output::of_body(request.send().await?, &wiring).await {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        result => result.map(|()| 0).map_err(Failure::from),
    }
}
