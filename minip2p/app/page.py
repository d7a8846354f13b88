"""The page: four tabs over one editor and one text-to-image model."""

import gradio as gr

from .models import Models
from .tabs import attention, edit, pairs, world

FONTS = {
    "font": [gr.themes.Font("system-ui"), "sans-serif"],
    "font_mono": [gr.themes.Font("ui-monospace"), "monospace"],
}
"""the system's own: a page of gradio's would ask another machine for them"""
CSS = """
.gradio-container { width: 100% !important; max-width: 1180px !important; margin: 0 auto !important; }
.buttons { align-items: end; }
.status { min-height: 3em; padding: 0 4px; }
.running { position: fixed; bottom: 10px; left: 10px; right: 10px; max-width: 600px; margin: 0 auto; z-index: 50;
  padding: 8px 16px; border-radius: 8px; background: var(--background-fill-primary); box-shadow: 0 1px 8px #0006; }
.toast-wrap { top: auto !important; bottom: 10px; }
.status [data-testid=status-tracker]:has(.error) { display: none; }
progress { width: 50%; height: 0.7em; accent-color: #6366f1; vertical-align: middle; }
.wrong { color: #d32f2f; font-weight: 600; }
.dark .wrong { color: #ff8a80; }
.legend { display: flex; gap: 8px; align-items: center; font-size: 0.9em; }
.legend i { width: 160px; height: 0.8em; border-radius: 4px; }
.large img { width: 100% !important; height: 100% !important; object-fit: contain; image-rendering: pixelated; }
#gallery .grid-wrap { min-height: 0; height: auto; }
#gallery .grid-container { grid-template-columns: repeat(auto-fill, minmax(110px, 1fr)); }
@media (max-width: 500px) {
  .gradio-container button.lg { font-size: 0.9em; padding: 8px; }
  .gradio-container code { white-space: normal; }
}
"""
"""small images are enlarged, with their pixels visible"""


def build(models: Models) -> gr.Blocks:
    """The page, to be launched by `serve`. Raises ValueError for models of the wrong kind."""
    name = models.loading.weights and models.loading.weights.rstrip("/").rsplit("/", 1)[-1]
    with gr.Blocks(title="minip2p", analytics_enabled=False, delete_cache=(600, 24 * 3600)) as page:
        gr.Markdown(f"### minip2p · {name or 'tiny editor'} · {models.editor.device}")
        with gr.Tabs():
            with gr.Tab("Edit"):
                first = edit.build(models)
            with gr.Tab("Pairs"):
                pairs.build(models)
            with gr.Tab("Attention"):
                attention.build(models)
            with gr.Tab("World"):
                fourth = world.build(models, first)
        page.load(**first.show)
        page.load(**fourth.show)
    return page
