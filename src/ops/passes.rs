//! Times the passes of the controllers, by their spans: a controller's `reconcile` is instrumented anyway, for the log.

use std::time::Instant;

use tracing::{Metadata, Subscriber, span};
use tracing_subscriber::{
    Layer,
    filter::filter_fn,
    layer::Context,
    registry::{LookupSpan, SpanRef},
};

use super::Metrics;

struct Passes(Metrics);

/// The layer, which sees the passes whatever level the log has.
pub(super) fn layer<S>(metrics: Metrics) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    Passes(metrics).with_filter(filter_fn(|metadata| kind(metadata).is_some()))
}

/// The kind of the objects that a span is a pass over, if it is one.
fn kind(metadata: &Metadata<'_>) -> Option<&'static str> {
    if metadata.name() != "reconcile" {
        return None;
    }
    match metadata.target() {
        "dcr_operator::oauth_client::controller" => Some("OAuthClient"),
        "dcr_operator::token_profile::controller" => Some("TokenProfile"),
        "dcr_operator::dcr_policy::controller" => Some("DcrPolicy"),
        _ => None,
    }
}

struct Started(Instant);

impl<S> Layer<S> for Passes
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, _: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        if let Some((span, kind)) = pass(context.span(id)) {
            span.extensions_mut().insert(Started(Instant::now()));
            self.0.pass_began(kind);
        }
    }

    fn on_close(&self, id: span::Id, context: Context<'_, S>) {
        if let Some((span, kind)) = pass(context.span(&id))
            && let Some(Started(at)) = span.extensions().get::<Started>()
        {
            self.0.pass_ended(kind, at.elapsed());
        }
    }
}

fn pass<'a, S: LookupSpan<'a>>(span: Option<SpanRef<'a, S>>) -> Option<(SpanRef<'a, S>, &'static str)> {
    let span = span?;
    let kind = kind(span.metadata())?;
    Some((span, kind))
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::prelude::*;

    use super::*;

    #[test]
    fn passes_are_timed_and_other_spans_are_not() {
        let metrics = Metrics::default();
        let subscriber = tracing_subscriber::registry().with(layer(metrics.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let pass = tracing::info_span!(target: "dcr_operator::dcr_policy::controller", "reconcile");
            let _other = tracing::info_span!(target: "dcr_operator::dcr_policy::controller", "other").entered();
            let _foreign = tracing::info_span!(target: "kube_runtime::controller", "reconcile").entered();
            assert!(metrics.encode().contains("dcr_operator_reconciles_under_way{kind=\"DcrPolicy\"} 1"));
            drop(pass);
        });
        let page = metrics.encode();
        assert!(page.contains("dcr_operator_reconciles_under_way{kind=\"DcrPolicy\"} 0"), "{page}");
        assert!(page.contains("dcr_operator_reconcile_duration_seconds_count{kind=\"DcrPolicy\"} 1"), "{page}");
    }
}
