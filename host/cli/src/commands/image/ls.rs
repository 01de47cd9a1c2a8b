//! `capsid images`, also called `capsid image ls`.

use clap::Args;

use crate::commands::Call;
use crate::failure::Failure;
use crate::present::list::{Form, Kind, Row, print};
use crate::present::table::short_id;
use crate::present::value::Value;
use crate::present::{sizes, times};
use crate::words::filters;

/// What an image has instead of a name, a tag or a digest.
const NONE: &str = "<none>";

const KIND: Kind = Kind {
    table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    headings: &[
        ("ID", "IMAGE ID"),
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("Digest", "DIGEST"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Size", "SIZE"),
        ("Containers", "CONTAINERS"),
        ("VirtualSize", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
    ],
    quiet: "{{.ID}}",
};
const WITH_DIGESTS: Kind =
    Kind { table: "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}", ..KIND };

/// Flags of `images`.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Show all images
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Show those only for which it holds: NAME=VALUE
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// 'table', 'json', or a template, which may follow 'table'
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print whole identifiers
    #[arg(long)]
    no_trunc: bool,
    /// Print identifiers alone
    #[arg(short, long)]
    quiet: bool,
    /// Show those of this name only
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

/// Lists the images, the newest first.
pub(crate) async fn list(arguments: &ListArguments, call: &Call) -> Result<u8, Failure> {
    let mut wanted = arguments.filter.clone();
    wanted.extend(arguments.reference.iter().map(|reference| format!("reference={reference}")));
    let filters = filters::document(&wanted).map_err(Failure::text)?;
    let kind = if arguments.digests { WITH_DIGESTS } else { KIND };
    let form = Form::new(kind, arguments.format.as_deref(), arguments.quiet)?;
    let client = call.connect().await?;
    let request = client.get("/images/json").flag("all", arguments.all).query_if("filters", filters);
    let images: Vec<Value> = request.send().await?.json().await?;
    let rows: Vec<Row> = images.iter().flat_map(|image| rows(image, arguments)).collect();
    print(&form.text(&rows)?)?;
    Ok(0)
}

/// A row for each name of an image.
fn rows(image: &Value, arguments: &ListArguments) -> Vec<Row> {
    let mut names: Vec<(String, String, String)> = image
        .get("RepoTags")
        .texts()
        .filter(|tag| *tag != "<none>:<none>")
        .map(|tag| {
            let (name, tag) = tag.rsplit_once(':').unwrap_or((tag, NONE));
            (name.to_owned(), tag.to_owned(), digest_of(image, name))
        })
        .collect();
    if names.is_empty() {
        let digests = image.get("RepoDigests").texts().filter(|digest| *digest != "<none>@<none>");
        names = digests
            .filter_map(|digest| digest.split_once('@'))
            .map(|(name, digest)| (name.to_owned(), NONE.to_owned(), digest.to_owned()))
            .collect();
    }
    if names.is_empty() {
        names.push((NONE.to_owned(), NONE.to_owned(), NONE.to_owned()));
    }
    let id = image.get("Id").text();
    let id = if arguments.no_trunc { id } else { short_id(id) };
    let created = image.get("Created").number();
    let (size, shared) = (image.get("Size").number(), image.get("SharedSize").number());
    let known = |bytes: i64, known: bool| if known { sizes::human(bytes) } else { "N/A".to_owned() };
    let containers = image.get("Containers").number();
    names
        .into_iter()
        .map(|(name, tag, digest)| {
            Row::new([
                ("ID", id.to_owned()),
                ("Repository", name),
                ("Tag", tag),
                ("Digest", digest),
                ("CreatedSince", if created > 0 { times::ago(created) } else { "N/A".to_owned() }),
                ("CreatedAt", times::go_time(created)),
                ("Size", sizes::human(size)),
                ("VirtualSize", sizes::human(size)),
                ("Containers", if containers >= 0 { containers.to_string() } else { "N/A".to_owned() }),
                ("SharedSize", known(shared, shared >= 0)),
                ("UniqueSize", known(size - shared.max(0), shared >= 0)),
            ])
        })
        .collect()
}

/// The digest that the image has under a name.
fn digest_of(image: &Value, name: &str) -> String {
    let digests = image.get("RepoDigests").texts().filter_map(|digest| digest.split_once('@'));
    digests
        .filter(|(known, _)| *known == name)
        .map(|(_, digest)| digest.to_owned())
        .next()
        .unwrap_or(NONE.to_owned())
}
