use proptest::prelude::*;

use super::*;

fn document() -> Value {
    let text = r#"{
        "Id": "0123456789abcdef", "Name": "/web", "RestartCount": 2, "Args": ["a", "b c"], "Empty": [],
        "State": {"Status": "running", "Running": true, "Pid": 17, "Health": null},
        "Config": {"Env": ["A=1", "B=2"], "Labels": {"com.example": "x", "b": "y"}, "Tty": false},
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "10.0.0.2"}}}
    }"#;
    serde_json::from_str(text).unwrap()
}

fn run(template: &str) -> std::result::Result<String, String> {
    let parsed = Template::parse(template).map_err(|error| error.to_string())?;
    parsed.of(&document()).map_err(|error| error.to_string())
}

#[test]
fn templates_that_people_use_with_docker_give_what_docker_gives() {
    for (template, text) in [
        ("plain", "plain"),
        ("{{.Name}}", "/web"),
        ("{{.ID}} {{.Id}}", "0123456789abcdef 0123456789abcdef"),
        ("{{.State.Status}}-{{.State.Pid}}", "running-17"),
        ("{{json .State}}", r#"{"Status":"running","Running":true,"Pid":17,"Health":null}"#),
        ("{{.State.Running | json}}", "true"),
        ("{{json .Config.Env}}", r#"["A=1","B=2"]"#),
        ("{{.Args}}", "[a b c]"),
        ("{{.Config.Labels}}", "map[b:y com.example:x]"),
        ("{{index .Config.Labels \"com.example\"}}", "x"),
        ("{{index .Config.Labels \"not there\"}}|", "|"),
        ("{{.Config.Labels.b}} {{.Config.Labels.none}}", "y <no value>"),
        ("{{index .Args 1}}", "b c"),
        ("{{range .Config.Env}}{{.}};{{end}}", "A=1;B=2;"),
        ("{{range $i, $v := .Args}}{{$i}}={{$v}} {{end}}", "0=a 1=b c "),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}},{{end}}", "b=y,com.example=x,"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "10.0.0.2"),
        ("{{with .State}}{{.Status}} {{$.Name}}{{end}}", "running /web"),
        ("{{with .State.Health}}sick{{else}}none{{end}}", "none"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if eq .State.Status \"exited\"}}a{{else if eq .State.Status \"running\"}}b{{else}}c{{end}}", "b"),
        ("{{if and .State.Running (gt .RestartCount 1)}}yes{{end}}", "yes"),
        ("{{if not .Config.Tty}}{{len .Args}}{{end}}", "2"),
        ("{{if or .Config.Tty .Empty}}x{{else}}y{{end}}", "y"),
        ("{{join .Args \", \"}}", "a, b c"),
        ("{{upper .Name}} {{lower \"ABC\"}} {{title \"ab cd\"}}", "/WEB abc Ab Cd"),
        ("{{truncate .Id 4}}{{pad \"x\" 1 2}}|", "0123 x  |"),
        ("{{slice .Id 0 12}}", "0123456789ab"),
        ("{{index (split .Name \"/\") 1}}", "web"),
        (
            "{{printf \"%.12s|%-6s|%04d|%q\" .Id \"ab\" .State.Pid .Name}}",
            "0123456789ab|ab    |0017|\"/web\"",
        ),
        ("{{println .Name}}{{print 1 2 \"x\" 3}}", "/web\n1 2x3"),
        ("{{$x := .Name}}{{$x}}{{$x = \"other\"}}{{$x}}", "/webother"),
        ("a {{- .Name -}}  b {{/* not here */}}c", "a/webb c"),
        ("{{.State.Health}}", "<nil>"),
        ("{{\"\\t\\u00e9\\\"\"}}{{`a\\b`}}{{'x'}}", "\té\"a\\b120"),
        ("{{range .Args}}{{if eq . \"a\"}}{{continue}}{{end}}{{.}}{{break}}{{end}}", "b c"),
        ("{{(index .Args 0) | printf \"<%s>\"}}", "<a>"),
        ("{{ (.State).Status }}", "running"),
        ("{{eq .RestartCount 1 2}} {{ne 1 2}} {{le 1 1}} {{lt \"a\" \"b\"}}", "true true true true"),
    ] {
        assert_eq!(run(template).as_deref(), Ok(text), "{template}");
    }
}

#[test]
fn mistakes_are_told_by_their_place() {
    for (template, part) in [
        ("{{", "unclosed action"),
        ("{{.Name", "unclosed action"),
        ("{{}}", "missing value for command"),
        ("{{if .Name}}", "unexpected EOF"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{else}}", "unexpected {{else}}"),
        ("{{nope .Name}}", "function \"nope\" not defined"),
        ("{{.Nope}}", "executing \"\" at <.Nope>: map has no entry for key \"Nope\""),
        ("{{.State.Nope}}", "<.State.Nope>"),
        ("{{.Name.More}}", "can't evaluate field More in type string"),
        ("{{$x}}", "undefined variable \"$x\""),
        ("{{index .Args 7}}", "out of range"),
        ("{{len .RestartCount}}", "len of type"),
        ("{{\"open}}", "unterminated quoted string"),
        ("{{join .Args}}", "wrong number of args for join"),
        ("{{.Name \"x\"}}", "can't give argument to non-function"),
        ("{{range .Name}}{{end}}", "range can't iterate over /web"),
    ] {
        let error = run(template).expect_err(template);
        assert!(error.starts_with("template parsing error: ") && error.contains(part), "{template}: {error}");
    }
    let deep = format!("{{{{{}1{}}}}}", "(".repeat(5000), ")".repeat(5000));
    assert!(run(&deep).is_err());
    assert!(run(&"{{if 1}}".repeat(5000)).is_err());
    assert!(run(&format!("{{{{if 0}}}}{}{{{{end}}}}", "{{else if 0}}".repeat(5000))).is_err());
}

#[test]
fn labels_are_found_and_headings_pass_functions() {
    let labels = [("com.example".to_owned(), Value::from("x"))];
    let value = document();
    let template = Template::parse("{{.Label \"com.example\"}}{{.Label \"none\"}}{{upper .Name}}").unwrap();
    let subject = Subject { value: Some(&value), labels: &labels, headings: false };
    assert_eq!(template.run(subject).unwrap(), "x/WEB");
    assert_eq!(template.run(Subject { headings: true, ..subject }).unwrap(), "com.examplenone/web");
}

proptest! {
    #[test]
    fn no_template_breaks_the_program(text in "(\\{\\{|\\}\\}|[a-z$.|()\"' ,:=0-9-]|if|range|end|else|with|json|index){0,40}") {
        if let Ok(template) = Template::parse(&text) {
            let _ = template.of(&document());
        }
    }
}
