"""The plots of the benchmarks: SVG files by gnuplot."""
import statistics
import subprocess

from world import RESULTS, median, rate_of


def draw(name, title, x, y, lines, more=""):
    """lines: the title of each and its points."""
    blocks = "\n\n\n".join("\n".join(f"{a} {b}" for a, b in points) for points in lines.values())
    plots = ", ".join(f'"{name}.data" index {number} with linespoints title "{text}"'
                      for number, text in enumerate(lines))
    (RESULTS / f"{name}.data").write_text(blocks + "\n")
    script = f"""set terminal svg size 800,480 background "white"
set output "{name}.svg"
set title "{title}"
set xlabel "{x}"
set ylabel "{y}"
set grid
{more}
plot {plots}
"""
    subprocess.run(["gnuplot"], input=script, text=True, check=True, cwd=RESULTS)
    (RESULTS / f"{name}.data").unlink()


def draw_throughput(runs):
    if runs:
        points = [(count, median(results, rate_of)) for count, results in runs.items()]
        draw("throughput", "Messages a second by connections, QoS 1", "connections", "messages a second",
             {"trackbus": points}, "set logscale x\nset yrange [0:*]")


def draw_latency(runs):
    if not runs:
        return
    lines = {}
    for name, text in [("bare", "bare publisher"), ("gateway", "trackbus")]:
        tables = [dict(run["latency_us"]["percentiles"]) for run in runs[name]]
        lines[text] = [(100 / (100 - percent), statistics.median(table[percent] for table in tables) / 1e3)
                       for percent in tables[0] if percent < 100]
    draw("latency", f"From the device's write to the subscriber's read at {runs['rate']:,}/s, QoS 1", "percentile",
         "milliseconds", lines,
         'set logscale xy\nset xtics ("0" 1, "50" 2, "90" 10, "99" 100, "99.9" 1000, "99.99" 10000)')
