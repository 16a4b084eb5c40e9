"""What a quantization will take, before it begins: layers and bits, disk, memory and time."""

from s2p_mobile.quantize.forecast.forecast import Forecast, make_forecast
from s2p_mobile.quantize.forecast.text import forecast_lines

__all__ = ["Forecast", "forecast_lines", "make_forecast"]
