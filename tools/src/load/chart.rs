//! Charts as SVG: lines or stacked areas over one shared horizontal axis. Colours are the page's, by class name.
//!
//! A chart is drawn at one size and scales with the page. What is marked in it is named in its legend.

use std::fmt::Write;

use super::axis::{Scale, short};

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 22.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

/// What is drawn of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Line,
    /// A line with the area below it filled faintly.
    Filled,
    /// Upon the ones before it.
    Stacked,
    /// A line with a dot at every point.
    Dotted,
    /// A dashed line, such as of a limit.
    Limit,
}

/// One series of a chart. Where a value is missing, its line is interrupted.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) name: String,
    /// The CSS class that gives it its colour.
    pub(crate) colour: &'static str,
    pub(crate) mark: Mark,
    pub(crate) points: Vec<(f64, Option<f64>)>,
}

/// A chart.
#[derive(Debug, Clone)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x_label: &'static str,
    pub(crate) y_label: &'static str,
    /// From, to; in the values of the points.
    pub(crate) x: (f64, f64),
    pub(crate) y: (f64, f64),
    pub(crate) logarithmic: bool,
    /// Places on the horizontal axis with their names; empty = round values.
    pub(crate) x_ticks: Vec<(f64, String)>,
    pub(crate) curves: Vec<Curve>,
}

impl Chart {
    /// The figure: title, legend and drawing.
    pub(crate) fn html(&self) -> String {
        let mut legend = String::new();
        for curve in &self.curves {
            let key = if curve.mark == Mark::Limit { "key limit" } else { "key" };
            let _ = write!(legend, "<li><i class=\"{key} {}\"></i>{}</li>", curve.colour, escaped(&curve.name));
        }
        format!(
            "<figure><figcaption><h2>{}</h2><ul class=\"legend\">{legend}</ul></figcaption>\n{}</figure>\n",
            escaped(&self.title),
            self.svg()
        )
    }

    fn svg(&self) -> String {
        let x = Scale::linear(self.x.0, self.x.1, LEFT, WIDTH - RIGHT);
        let y = match self.logarithmic {
            true => Scale::logarithmic(self.y.0, self.y.1, HEIGHT - BOTTOM, TOP),
            false => Scale::linear(self.y.0, self.y.1, HEIGHT - BOTTOM, TOP),
        };
        let mut svg =
            format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n", escaped(&self.title));
        self.draw_axes(&mut svg, x, y);
        let mut below = Vec::new();
        for curve in &self.curves {
            match curve.mark {
                Mark::Stacked => draw_stacked(&mut svg, curve, &mut below, x, y),
                _ => draw_line(&mut svg, curve, x, y),
            }
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn draw_axes(&self, svg: &mut String, x: Scale, y: Scale) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for value in y.ticks(5) {
            let at = y.at(value);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"tick\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                LEFT - 7.0,
                at + 4.0,
                short(value)
            );
        }
        let named = |value: f64| (value, short(value));
        let ticks =
            if self.x_ticks.is_empty() { x.ticks(10).into_iter().map(named).collect() } else { self.x_ticks.clone() };
        for (value, name) in ticks {
            let at = x.at(value);
            let _ = writeln!(
                svg,
                "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{bottom}\" y2=\"{:.1}\"/>\
                 <text class=\"tick\" text-anchor=\"middle\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
                bottom + 4.0,
                bottom + 17.0,
                escaped(&name)
            );
        }
        let middle = (TOP + bottom) / 2.0;
        let _ = writeln!(
            svg,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>\
             <text class=\"label\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <text class=\"label\" text-anchor=\"middle\" transform=\"rotate(-90)\" x=\"{:.1}\" y=\"13\">{}</text>",
            (LEFT + right) / 2.0,
            HEIGHT - 5.0,
            escaped(self.x_label),
            -middle,
            escaped(self.y_label)
        );
    }
}

/// A line, in as many parts as there are gaps in its values.
fn draw_line(svg: &mut String, curve: &Curve, x: Scale, y: Scale) {
    let bottom = HEIGHT - BOTTOM;
    let parts = curve.points.split(|(_, value)| value.is_none()).filter(|part| !part.is_empty());
    for part in parts {
        let places: Vec<(f64, f64)> =
            part.iter().filter_map(|(at, value)| Some((x.at(*at), y.at((*value)?)))).collect();
        let (Some(first), Some(last)) = (places.first(), places.last()) else { continue };
        if curve.mark == Mark::Filled {
            let _ = writeln!(
                svg,
                "<path class=\"area {}\" d=\"M{:.1} {bottom}{}L{:.1} {bottom}Z\"/>",
                curve.colour,
                first.0,
                path(&places, 'L'),
                last.0
            );
        }
        let class = if curve.mark == Mark::Limit { "line limit" } else { "line" };
        if places.len() > 1 {
            let _ = writeln!(svg, "<path class=\"{class} {}\" d=\"{}\"/>", curve.colour, path(&places, 'M'));
        }
        // A value between two gaps has no line, but it has a place.
        if curve.mark == Mark::Dotted || places.len() == 1 {
            for (at_x, at_y) in &places {
                let _ =
                    writeln!(svg, "<circle class=\"dot {}\" cx=\"{at_x:.1}\" cy=\"{at_y:.1}\" r=\"3\"/>", curve.colour);
            }
        }
    }
}

/// An area upon the ones before it; `below` is their upper edge, and becomes this one's.
fn draw_stacked(svg: &mut String, curve: &Curve, below: &mut Vec<f64>, x: Scale, y: Scale) {
    below.resize(curve.points.len(), 0.0);
    let edge = |heights: &[f64]| -> Vec<(f64, f64)> {
        curve.points.iter().zip(heights).map(|((at, _), height)| (x.at(*at), y.at(*height))).collect()
    };
    let mut lower = edge(below);
    for ((_, value), height) in curve.points.iter().zip(below.iter_mut()) {
        *height += value.unwrap_or(0.0);
    }
    lower.reverse();
    let _ = writeln!(
        svg,
        "<path class=\"stack {}\" d=\"{}{}Z\"/>",
        curve.colour,
        path(&edge(below), 'M'),
        path(&lower, 'L')
    );
}

/// The places as path commands, the first with the command given.
fn path(places: &[(f64, f64)], first: char) -> String {
    let mut commands = String::with_capacity(places.len() * 14);
    for (number, (x, y)) in places.iter().enumerate() {
        let _ = write!(commands, "{}{x:.1} {y:.1}", if number == 0 { first } else { 'L' });
    }
    commands
}

/// Text as HTML and SVG take it.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(mark: Mark, series: &[&[Option<f64>]]) -> String {
        let curve = |values: &&[Option<f64>]| Curve {
            name: "a <b>".to_owned(),
            colour: "c1",
            mark,
            points: values.iter().enumerate().map(|(at, value)| (at as f64, *value)).collect(),
        };
        Chart {
            title: "t".to_owned(),
            x_label: "s",
            y_label: "ms",
            x: (0.0, 3.0),
            y: (0.0, 10.0),
            logarithmic: false,
            x_ticks: Vec::new(),
            curves: series.iter().map(curve).collect(),
        }
        .html()
    }

    #[test]
    fn a_gap_interrupts_a_line_and_a_lone_value_is_a_dot() {
        let html = chart(Mark::Line, &[&[Some(1.0), Some(2.0), None, Some(3.0)]]);
        assert_eq!((html.matches("class=\"line c1\"").count(), html.matches("<circle").count()), (1, 1), "{html}");
        assert!(html.contains("a &lt;b&gt;") && !html.contains("<b>"), "{html}");
    }

    #[test]
    fn stacked_areas_lie_upon_each_other() {
        let ones: &[Option<f64>] = &[Some(5.0), Some(5.0)];
        let html = chart(Mark::Stacked, &[ones, ones]);
        // The chart is 198 high from 210 up to 12: 5 of 10 is at 111, 10 of 10 at 12.
        let paths: Vec<&str> = html.match_indices("class=\"stack").map(|(at, _)| &html[at..]).collect();
        assert!(paths[0].contains("M62.0 111.0") && paths[0].contains("62.0 210.0Z"), "{}", paths[0]);
        assert!(paths[1].contains("M62.0 12.0") && paths[1].contains("62.0 111.0Z"), "{}", paths[1]);
    }
}
