//! `capsid create`, and the making of containers for `run`.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use capsid_api::client::{Client, ClientError};
use capsid_api::extensions::NOTICE_HEADER;
use capsid_api::models::{ContainerCreateBody, ContainerCreateResponse};
use clap::Args;

use super::config;
use super::flags::{ContainerFlags, Pull};
use crate::commands::Call;
use crate::failure::{Failure, is_status};
use crate::present::list::print;
use crate::present::progress::Progress;
use crate::present::value::Value;
use crate::words::names::{file_problem, name_and_tag, with_tag};

/// Flags and words of `create`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct CreateArguments {
    #[command(flatten)]
    container: ContainerFlags,
}

/// Makes a container, and prints its identifier.
pub(crate) async fn create(arguments: CreateArguments, call: &Call) -> Result<u8, Failure> {
    let made = async {
        let body = config::body(&arguments.container).map_err(Failure::text)?;
        let client = call.connect().await?;
        make(&client, &arguments.container, &body).await
    };
    let id = made.await.map_err(|failure| failure.of_verb("create"))?;
    print(&format!("{id}\n"))?;
    Ok(0)
}

/// Makes a container, and tells the daemon's warnings. The result is its identifier.
pub(super) async fn make(
    client: &Client,
    flags: &ContainerFlags,
    body: &ContainerCreateBody,
) -> Result<String, Failure> {
    let life = &flags.life;
    if let Some(path) = &life.cidfile
        && path.exists()
    {
        let advice = "make sure the other container isn't running or delete";
        return Err(Failure::text(format!("container ID file found, {advice} {}", path.display())));
    }
    let image = body.image.as_deref().unwrap_or_default();
    if life.pull == Pull::Always {
        pull(client, image, life.quiet).await?;
    }
    let mut made = ask(client, flags, body).await;
    if life.pull == Pull::Missing
        && let Err(error) = &made
        && is_status(error, 404)
        && error.to_string().contains("No such image")
    {
        if !life.quiet {
            eprintln!("Unable to find image '{}' locally", with_tag(image));
        }
        pull(client, image, life.quiet).await?;
        made = ask(client, flags, body).await;
    }
    let made = made?;
    for warning in &made.warnings {
        eprintln!("WARNING: {warning}");
    }
    if let Some(path) = &life.cidfile {
        write_identifier(path, &made.id)?;
    }
    Ok(made.id)
}

async fn ask(
    client: &Client,
    flags: &ContainerFlags,
    body: &ContainerCreateBody,
) -> Result<ContainerCreateResponse, ClientError> {
    let request = client.post("/containers/create").query_if("name", flags.life.name.as_deref());
    let request = request.query_if("platform", flags.life.platform.as_deref());
    let response = request.json(body).send().await?;
    if let Some(notice) = response.header(NOTICE_HEADER) {
        eprintln!("capsid: {notice}");
    }
    response.json().await
}

async fn pull(client: &Client, image: &str, quiet: bool) -> Result<(), Failure> {
    let (name, tag) = name_and_tag(image);
    let request = client.post("/images/create").query("fromImage", name).query("tag", tag);
    let mut messages = request.send().await?.json_stream::<Value>();
    // On stderr in docker; what is told is the same.
    let mut progress = Progress::new(quiet);
    while let Some(message) = messages.next().await? {
        progress.show(&message).map_err(Failure::text)?;
    }
    Ok(())
}

fn write_identifier(path: &Path, id: &str) -> Result<(), Failure> {
    let written = File::create_new(path).and_then(|mut file| file.write_all(id.as_bytes()));
    written.map_err(|error| {
        Failure::text(format!("failed to write the container ID: {}", file_problem("open", path, &error)))
    })
}
