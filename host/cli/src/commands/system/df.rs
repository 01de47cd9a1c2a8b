//! `capsid system df`.

use clap::Args;

use crate::commands::Call;
use crate::commands::container::ls::joined;
use crate::failure::Failure;
use crate::present::list::{Form, Kind, Row, print};
use crate::present::table::{lay_out, short_id};
use crate::present::value::Value;
use crate::present::{sizes, times};

const KIND: Kind = Kind {
    table: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
    headings: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
    quiet: "{{.Type}}",
};

/// Flags of `system df`.
#[derive(Debug, Args)]
pub(crate) struct UsageArguments {
    /// 'table', 'json', or a template, which may follow 'table'
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show each image and container
    #[arg(short, long)]
    verbose: bool,
}

/// Prints what images and containers take on the disk.
pub(crate) async fn usage(arguments: &UsageArguments, call: &Call) -> Result<u8, Failure> {
    if arguments.verbose && arguments.format.is_some() {
        return Err(Failure::text("the verbose and the format options conflict"));
    }
    let form = Form::new(KIND, arguments.format.as_deref(), false)?;
    let client = call.connect().await?;
    let usage: Value = client.get("/system/df").send().await?.json().await?;
    if arguments.verbose {
        print(&verbose(&usage))?;
    } else {
        print(&form.text(&rows(&usage))?)?;
    }
    Ok(0)
}

fn rows(usage: &Value) -> Vec<Row> {
    let (images, containers) = (usage.get("Images").list(), usage.get("Containers").list());
    let (volumes, cache) = (usage.get("Volumes").list(), usage.get("BuildCache").list());
    let whole = usage.get("LayersSize").number();
    let used: Vec<&Value> = images.iter().filter(|image| image.get("Containers").number() > 0).collect();
    // Of an image that nothing uses, what it shares with others goes with the last of them.
    let own = |image: &Value| image.get("Size").number() - image.get("SharedSize").number().max(0);
    let kept: i64 = used.iter().map(|image| own(image)).sum();
    let runs =
        |container: &&Value| matches!(container.get("State").text(), "running" | "paused" | "restarting");
    let written = |container: &Value| container.get("SizeRw").number();
    let total: i64 = containers.iter().map(written).sum();
    let idle: i64 = containers.iter().filter(|container| !runs(container)).map(written).sum();
    let of_volume = |volume: &Value| volume.at(&["UsageData", "Size"]).number().max(0);
    let in_use = |volume: &&Value| volume.at(&["UsageData", "RefCount"]).number() > 0;
    let volumes_size: i64 = volumes.iter().map(of_volume).sum();
    let volumes_idle: i64 = volumes.iter().filter(|volume| !in_use(volume)).map(of_volume).sum();
    let cached: i64 = cache.iter().map(|entry| entry.get("Size").number()).sum();
    vec![
        row("Images", images.len(), used.len(), whole, if images.is_empty() { 0 } else { whole - kept }),
        row("Containers", containers.len(), containers.iter().filter(runs).count(), total, idle),
        row(
            "Local Volumes",
            volumes.len(),
            volumes.iter().filter(in_use).count(),
            volumes_size,
            volumes_idle,
        ),
        row(
            "Build Cache",
            cache.len(),
            cache.iter().filter(|entry| entry.get("InUse").is_true()).count(),
            cached,
            cached,
        ),
    ]
}

fn row(kind: &str, total: usize, active: usize, size: i64, reclaimable: i64) -> Row {
    let reclaimable = reclaimable.clamp(0, size.max(0));
    let share = if size > 0 {
        format!(" ({}%)", i128::from(reclaimable) * 100 / i128::from(size))
    } else {
        String::new()
    };
    // Docker gives no share of a build cache.
    let share = if kind == "Build Cache" { String::new() } else { share };
    Row::new([
        ("Type", kind.to_owned()),
        ("TotalCount", total.to_string()),
        ("Active", active.to_string()),
        ("Size", sizes::human_exact(size)),
        ("Reclaimable", format!("{}{share}", sizes::human_exact(reclaimable))),
    ])
}

fn verbose(usage: &Value) -> String {
    let mut images =
        vec!["REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tCONTAINERS".to_owned()];
    for image in usage.get("Images").list() {
        let tag = image.get("RepoTags").texts().next().unwrap_or("<none>:<none>");
        let (name, tag) = tag.rsplit_once(':').unwrap_or((tag, "<none>"));
        let (size, shared) = (image.get("Size").number(), image.get("SharedSize").number().max(0));
        images.push(format!(
            "{name}\t{tag}\t{}\t{}\t{}\t{}\t{}\t{}",
            short_id(image.get("Id").text()),
            times::ago(image.get("Created").number()),
            sizes::human(size),
            sizes::human(shared),
            sizes::human(size - shared),
            image.get("Containers").number(),
        ));
    }
    let mut containers =
        vec!["CONTAINER ID\tIMAGE\tCOMMAND\tLABELS\tSIZE\tCREATED\tSTATUS\tNAMES".to_owned()];
    for container in usage.get("Containers").list() {
        containers.push(format!(
            "{}\t{}\t{:?}\t{}\t{}\t{}\t{}\t{}",
            short_id(container.get("Id").text()),
            container.get("Image").text(),
            container.get("Command").text(),
            joined(container.get("Labels").fields()),
            sizes::human(container.get("SizeRw").number()),
            times::ago(container.get("Created").number()),
            container.get("Status").text(),
            container
                .get("Names")
                .texts()
                .map(|name| name.trim_start_matches('/'))
                .collect::<Vec<_>>()
                .join(","),
        ));
    }
    format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}",
        lay_out(&images),
        lay_out(&containers)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_uses_can_be_reclaimed() {
        let usage: Value = serde_json::from_str(
            r#"{"LayersSize":3000,"Images":[{"Size":1000,"SharedSize":0,"Containers":1},{"Size":2000,"SharedSize":0,"Containers":0}],
            "Containers":[{"State":"running","SizeRw":10},{"State":"exited","SizeRw":30}],"Volumes":null,"BuildCache":[]}"#,
        )
        .unwrap();
        let text = Form::new(KIND, None, false).unwrap().text(&rows(&usage)).unwrap();
        let expected = "TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE\n\
            Images          2         1         3kB       2kB (66%)\n\
            Containers      2         1         40B       30B (75%)\n\
            Local Volumes   0         0         0B        0B\n\
            Build Cache     0         0         0B        0B\n";
        assert_eq!(text, expected);
    }
}
